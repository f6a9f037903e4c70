"""What the trainings of a pipeline come to: settings chosen without test labels, tables, plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from featcache.files import explained, write_atomic
from featcache.report import choices, plot, probes, reliability, table
from featcache.report.choices import DEFAULT, ORACLE, Choice
from featcache.training.selection import borda

Result = Mapping[str, Any]
VOTE, CROSS_VALIDATION = "vote", "cross-validation"


class Place(NamedTuple):
    """Where one training stands in the grid, and in the folder."""

    cache: str
    objective: str
    setting: str
    """What differs from the default options, for example `w_ent=0.3`; empty for those."""
    budget: str
    """`labels_per_class=4` or `num_labels=24`."""
    seed: int

    @property
    def path(self) -> str:
        """The run directory, below the pipeline's."""
        setting = [self.setting.replace("/", "_")] if self.setting else []
        return "/".join([self.cache, self.objective, *setting, self.budget, f"seed={self.seed}"])


@dataclass(frozen=True)
class Study:
    """What a pipeline file came to."""

    rows: list[table.Row]
    against: tuple[str, ...]
    """What rows are compared with besides the controls."""
    probes: str
    """A Markdown table of what probes found before and after; empty where no objective asks for them."""
    choices: list[Choice]
    """Of objectives with settings to choose from, rule by rule."""
    extraction: float | None
    """Seconds that all extractions took; None where one was interrupted and went on, or is not known."""
    trainings: list[tuple[str, float]]
    """Objective and seconds of every training."""
    table: Path
    plot: Path

    def describe(self) -> str:
        """The tables, what each stage took, and where table and plot are."""
        total = sum(seconds for _, seconds in self.trainings)
        lines = [table.aligned(table.markdown(self.rows, self.against)) + table.note(self.rows)]
        if self.probes:
            lines.append(f"{_PROBES}\n{table.aligned(self.probes)}")
        if self.choices:
            lines.append(f"{_INTRODUCTION}\n{table.aligned(choices.markdown(self.choices))}")
        extraction = "in several parts" if self.extraction is None else f"{self.extraction:.1f} s"
        count = f"{len(self.trainings)} training{'s' if len(self.trainings) > 1 else ''}"
        lines.append(f"extraction: {extraction}; {count}: {total:.1f} s")
        if self.extraction is not None:
            lines.append(self._second_experiment(self.extraction))
        return "\n".join([*lines, f"table: {self.table}", f"plot: {self.plot}"])

    def markdown(self) -> str:
        """The tables as a page."""
        parts = [table.markdown(self.rows, self.against), table.note(self.rows)]
        if self.probes:
            parts += [f"{_PROBES}\n", self.probes]
        if self.choices:
            parts += [f"{_INTRODUCTION}\n", choices.markdown(self.choices)]
        return "\n".join(filter(None, parts))

    def _second_experiment(self, extraction: float) -> str:
        by_objective: dict[str, list[float]] = {}
        for objective, seconds in self.trainings:
            by_objective.setdefault(objective, []).append(seconds)
        slowest, second = max(
            ((name, median(times)) for name, times in by_objective.items()), key=lambda item: item[1]
        )
        first, times_less = extraction + second, 1 + extraction / max(second, 0.001)
        return (
            f"the first experiment with {slowest}: {first:.1f} s, extraction included; "
            f"the second, from the cache: {second:.1f} s, {times_less:.0f} times less"
        )


_INTRODUCTION = (
    "Settings chosen draw by draw without test labels (the first rule is in use, and in the table above):"
)


_PROBES = (
    "What k nearest neighbours and a linear probe make of test rows, of the frozen representation and after:"
)


def conclude(
    trained: Sequence[tuple[Place, Result]],
    extraction: float | None,
    out: Path,
    against: tuple[str, ...] = (),
) -> Study:
    """Choose where there is a choice, and write `out`/results.md, results.png and reliability.png."""
    results, made = choose(trained)
    study = Study(
        rows=table.rows(results, against),
        against=against,
        probes=probes.markdown(results, against),
        choices=made,
        extraction=extraction,
        trainings=[(result["objective"], result["seconds"]) for _, result in trained],
        table=out / "results.md",
        plot=out / "results.png",
    )
    with explained(out):
        write_atomic(study.table, study.markdown().encode())
        write_atomic(study.plot, plot.png(study.rows))
        write_atomic(out / "reliability.png", reliability.png(results))
    return study


def choose(trained: Sequence[tuple[Place, Result]]) -> tuple[list[tuple[str, Result]], list[Choice]]:
    """(cache name, result) of the chosen settings, and how the choice went, rule by rule.

    A setting is chosen for each label draw from that draw alone, as someone with these labels and no others
    would have to; so draws stay independent, and their intervals mean what they say.
    """
    groups: dict[tuple[str, str, str], dict[int, list[tuple[Place, Result]]]] = {}
    for place, result in trained:
        group = groups.setdefault((place.cache, place.objective, place.budget), {})
        group.setdefault(place.seed, []).append((place, result))
    results: list[tuple[str, Result]] = []
    made: list[Choice] = []
    for (cache, objective, _), draws in groups.items():
        picked = rules([[result for _, result in draw] for draw in draws.values()])
        in_use = next(iter(picked.values()))
        results += [(cache, draw[i][1]) for i, draw in zip(in_use, draws.values(), strict=True)]
        if all(len(draw) == 1 for draw in draws.values()):
            continue
        for rule, which in picked.items():
            chosen = [draw[i] for i, draw in zip(which, draws.values(), strict=True)]
            n, unit = table.budget_of(chosen[0][1])
            made.append(
                Choice(
                    cache,
                    table.shown(n, unit),
                    objective,
                    rule,
                    tuple(place.setting or DEFAULT for place, _ in chosen),
                    tuple(100 * result["test"]["accuracy"] for _, result in chosen),
                )
            )
    return results, made


def rules(draws: Sequence[Sequence[Result]]) -> dict[str, list[int]]:
    """Which candidate each rule takes, draw by draw; the first rule is the one in use.

    Cross-validation where every candidate of every draw has held-out labelled samples, else the vote of the
    label-free scores; then each score alone, the default (candidate 0) and the oracle. Ties go to the
    candidate that comes first, so that the default stays where nothing speaks against it.
    """
    every = [result for draw in draws for result in draw]
    found: dict[str, list[int]] = {}
    if all(result["held_out"] for result in every):
        found[CROSS_VALIDATION] = [_best([_held_out(result) for result in draw]) for draw in draws]
    found[VOTE] = [_best([-rank for rank in borda([r["scores"] for r in draw])]) for draw in draws]
    for name in every[0]["scores"]:
        found[name] = [_best([result["scores"][name] for result in draw]) for draw in draws]
    found[DEFAULT] = [0] * len(draws)
    found[ORACLE] = [_best([result["test"]["accuracy"] for result in draw]) for draw in draws]
    return found


def _held_out(result: Result) -> tuple[float, float]:
    """Few labels give many ties in accuracy; the likelihood of the labels decides them."""
    return result["held_out"]["accuracy"], -result["held_out"]["nll"]


def _best(values: Sequence[Any]) -> int:
    return max(range(len(values)), key=lambda i: values[i])
