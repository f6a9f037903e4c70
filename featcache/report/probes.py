"""What probes of a representation found: what was gained, and what was forgotten of a second cache."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from featcache.report.table import budget_of, difference, mean_and_spread, paired, shown

FIGURES = {
    "target_knn": "target, k-NN",
    "target_linear": "target, linear",
    "source_knn": "source, k-NN",
    "source_linear": "source, linear",
}
_Draws = dict[int, Mapping[str, float]]


def markdown(results: Iterable[tuple[str, Mapping[str, Any]]], against: Sequence[str] = ()) -> str:
    """A Markdown table of (cache name, result.json) pairs that have `probes`; empty where none has.

    Accuracy in percent before (frozen) and after, over the draws, with paired differences: after minus
    before, and after minus that of each objective or variant in `against`; bold where the 95 % interval
    excludes zero.
    """
    groups: dict[tuple[str, str, str], _Draws] = {}
    for cache, result in results:
        if "probes" in result:
            key = (cache, shown(*budget_of(result)), result["objective"])
            groups.setdefault(key, {})[result["seed"]] = result["probes"]
    if not groups:
        return ""
    head = ["cache", "labels", "objective", "probe", "before %", "after %", "after minus before"]
    head += [f"after minus {name}" for name in against]
    lines = [head, ["---"] * len(head)]
    for (cache, labels, objective), draws in groups.items():
        others = [groups.get((cache, labels, name), {}) if name != objective else {} for name in against]
        for figure, name in FIGURES.items():
            before, after = _percent(draws, f"{figure}_before"), _percent(draws, f"{figure}_after")
            if not after:
                continue
            cells = [mean_and_spread(np.array([*column.values()])) for column in (before, after)]
            gaps = [_gap(after, reference) for reference in (before, *_afters(others, figure))]
            lines.append([cache, labels, objective, name, *cells, *gaps])
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"


def _percent(draws: _Draws, name: str) -> dict[int, float]:
    return {seed: 100 * probes[name] for seed, probes in draws.items() if name in probes}


def _afters(others: Sequence[_Draws], figure: str) -> list[dict[int, float]]:
    return [_percent(draws, f"{figure}_after") for draws in others]


def _gap(values: Mapping[int, float], reference: Mapping[int, float]) -> str:
    shared = [seed for seed in values if seed in reference]
    if not shared:
        return ""
    return difference(paired([values[s] for s in shared], [reference[s] for s in shared]))
