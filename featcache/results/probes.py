"""Tabulate probes of a representation: accuracy before and after training, on target and second cache."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from featcache.results.rows import Budget, Outcome
from featcache.results.statistics import paired
from featcache.results.table import Table, difference_text, mean_text

PROBES = {
    "target_knn": "target, k-NN",
    "target_linear": "target, linear",
    "replay_knn": "replay cache, k-NN",
    "replay_linear": "replay cache, linear",
}
"""Keys in result.json, and their names in the table."""
_BySeed = dict[int, Mapping[str, float]]


def probes_table(outcomes: Iterable[Outcome], against: Sequence[str] = ()) -> Table | None:
    """Return the table of the trainings that have `probes`; None where none has.

    Accuracy is in percent before (frozen) and after training, over the label draws. Paired differences are
    after minus before, and after minus that of each objective in `against`. A difference is bold where its
    95 % interval excludes zero.
    """
    groups: dict[tuple[str, Budget, str], _BySeed] = {}
    for cache, objective, result, _ in outcomes:
        if "probes" in result:
            group = groups.setdefault((cache, Budget.of(result), objective), {})
            group[result["seed"]] = result["probes"]
    if not groups:
        return None
    head = ["cache", "labels", "objective", "probe", "before %", "after %", "after minus before"]
    lines = []
    for (cache, budget, objective), draws in groups.items():
        others = [groups.get((cache, budget, name), {}) if name != objective else {} for name in against]
        for key, name in PROBES.items():
            before, after = _percent(draws, f"{key}_before"), _percent(draws, f"{key}_after")
            if not after:
                continue
            means = [mean_text([*column.values()]) for column in (before, after)]
            references = [before, *(_percent(other, f"{key}_after") for other in others)]
            differences = [_paired_text(after, reference) for reference in references]
            lines.append([cache, budget.label, objective, name, *means, *differences])
    return Table([*head, *(f"after minus {name}" for name in against)], lines)


def _percent(draws: _BySeed, key: str) -> dict[int, float]:
    return {seed: 100 * probes[key] for seed, probes in draws.items() if key in probes}


def _paired_text(values: Mapping[int, float], reference: Mapping[int, float]) -> str:
    shared = [seed for seed in values if seed in reference]
    if not shared:
        return ""
    return difference_text(paired([values[s] for s in shared], [reference[s] for s in shared]))
