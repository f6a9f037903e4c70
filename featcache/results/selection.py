"""Select a setting for each label draw without test labels, and compare the rules that could select it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from featcache.results.grid import GridCell
from featcache.results.rows import Budget, Outcome, Result, percent_correct
from featcache.results.statistics import paired
from featcache.results.table import Table, difference_text, mean_text
from featcache.training.selection import borda

VOTE, CROSS_VALIDATION, ORACLE, DEFAULT = "vote", "cross-validation", "oracle", "default"

Trained = tuple[GridCell, Result]
"""A finished training of a grid."""


@dataclass(frozen=True)
class Selection:
    """The settings that one rule selects for an objective at a label budget on a cache, by label draw."""

    cache: str
    budget: Budget
    objective: str
    rule: str
    """`cross-validation`, `vote`, the name of a score, `default`, or `oracle`: the best by test labels.

    The first rule that is listed for an objective is the one in use.
    """
    settings: tuple[str, ...]
    accuracy: tuple[float, ...]
    """Percent of test rows, by draw."""


def select_settings(trained: Sequence[Trained]) -> tuple[list[Outcome], list[Selection]]:
    """Return the trainings with the selected settings, and the selections of every rule.

    A setting is selected for each label draw from that draw alone, as a user with these labels would have to.
    So draws stay independent, and their intervals are valid. An objective without settings is kept as it is.
    """
    groups: dict[tuple[str, str, str], dict[int, list[Trained]]] = {}
    for cell, result in trained:
        draws = groups.setdefault((cell.cache, cell.objective, cell.budget), {})
        draws.setdefault(cell.seed, []).append((cell, result))
    outcomes: list[Outcome] = []
    selections: list[Selection] = []
    for (cache, objective, _), by_seed in groups.items():
        candidates = list(by_seed.values())
        by_rule = apply_rules([[result for _, result in draw] for draw in candidates])
        selected = {
            rule: [draw[i] for i, draw in zip(indices, candidates, strict=True)]
            for rule, indices in by_rule.items()
        }
        in_use = next(iter(selected.values()))
        outcomes += [Outcome(cache, objective, result) for _, result in in_use]
        if any(len(draw) > 1 for draw in candidates):
            selections += [_selection(rule, of_rule) for rule, of_rule in selected.items()]
    return outcomes, selections


def apply_rules(draws: Sequence[Sequence[Result]]) -> dict[str, list[int]]:
    """Return the index of the candidate that each rule selects, draw by draw; the first rule is in use.

    This is cross-validation where every candidate has held-out labelled samples, else the vote of the
    label-free scores. Then come each score alone, the default (candidate 0) and the oracle. Ties go to the
    first candidate, so that the default stays unless something speaks against it.
    """
    every = [result for draw in draws for result in draw]
    found: dict[str, list[int]] = {}
    if all(result["held_out"] for result in every):
        found[CROSS_VALIDATION] = [_argmax([_held_out(result) for result in draw]) for draw in draws]
    found[VOTE] = [_argmax([-rank for rank in borda([r["scores"] for r in draw])]) for draw in draws]
    for name in every[0]["scores"]:
        found[name] = [_argmax([result["scores"][name] for result in draw]) for draw in draws]
    found[DEFAULT] = [0] * len(draws)
    found[ORACLE] = [_argmax([result["test"]["accuracy"] for result in draw]) for draw in draws]
    return found


def selections_table(selections: Sequence[Selection]) -> Table:
    """Return one line for each rule, with paired differences to oracle and default."""
    head = ["cache", "labels", "objective", "chosen by", "accuracy %", "minus oracle", "minus default"]
    accuracies = {(s.cache, s.budget, s.objective, s.rule): s.accuracy for s in selections}
    lines = []
    for s in selections:
        differences = [
            difference_text(paired(s.accuracy, accuracies[s.cache, s.budget, s.objective, reference]))
            if reference != s.rule
            else ""
            for reference in (ORACLE, DEFAULT)
        ]
        settings = ", ".join(f"{name} ({n})" for name, n in Counter(s.settings).most_common())
        rule = f"{s.rule} (test labels)" if s.rule == ORACLE else s.rule
        cells = [s.cache, s.budget.label, s.objective, rule, mean_text(s.accuracy)]
        lines.append([*cells, *differences, settings])
    return Table([*head, "settings"], lines)


def _selection(rule: str, trained: Sequence[Trained]) -> Selection:
    cell, result = trained[0]
    return Selection(
        cell.cache,
        Budget.of(result),
        cell.objective,
        rule,
        tuple(cell.setting or DEFAULT for cell, _ in trained),
        tuple(percent_correct(result) for _, result in trained),
    )


def _held_out(result: Result) -> tuple[float, float]:
    # Few labels give many ties in accuracy; the likelihood of the labels decides them.
    return result["held_out"]["accuracy"], -result["held_out"]["nll"]


def _argmax(values: Sequence[Any]) -> int:
    return max(range(len(values)), key=lambda i: values[i])
