"""Results of many runs side by side: mean, spread over label draws, paired differences and their interval."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import t as student

_Key = tuple[str, int, str, str]
"""Cache, budget, unit and objective."""
CONTROLS = ("linear", "supervised")
"""What every method is compared with, on the same label draws."""


@dataclass(frozen=True)
class Difference:
    """A paired difference: its mean and the half-width of its 95 % interval."""

    mean: float
    half_width: float

    @property
    def clear(self) -> bool:
        """Whether the interval excludes zero."""
        return abs(self.mean) > self.half_width


def paired(a: Sequence[float], b: Sequence[float]) -> Difference:
    """Mean of a - b with its 95 % interval (Student's t), draw by draw; an infinite width for a single draw.

    >>> d = paired([3.0, 4.0, 5.0], [1.0, 2.0, 2.0])
    >>> round(d.mean, 2), round(d.half_width, 2)
    (2.33, 1.43)
    """
    gaps = np.subtract(a, b)
    if len(gaps) < 2:
        return Difference(float(gaps.mean()), math.inf)
    spread = gaps.std(ddof=1) / math.sqrt(len(gaps))
    return Difference(float(gaps.mean()), float(student.ppf(0.975, len(gaps) - 1) * spread))


@dataclass(frozen=True)
class Row:
    """One method at one label budget on one cache, over its draws."""

    cache: str
    budget: int
    """Labels, counted by `unit`."""
    unit: str
    """`per class` or `in all`."""
    objective: str
    accuracy: tuple[float, ...]
    """Percent, by seed."""
    nll: float
    ece: float
    seconds: float
    against: Mapping[str, Difference]
    """Paired with each control that was run."""
    auroc: float | None = None
    """Confidence in known against unknown classes, where some are."""

    @property
    def labels(self) -> str:
        """The budget as the table shows it: `4/class`, `24 in all`."""
        return f"{self.budget}/class" if self.unit == "per class" else f"{self.budget} {self.unit}"


def rows(results: Iterable[tuple[str, Mapping[str, Any]]]) -> list[Row]:
    """Group (cache name, result.json) pairs by cache, budget and objective, in the order they come."""
    groups: dict[_Key, dict[int, Mapping[str, Any]]] = {}
    for cache, result in results:
        per_class = result["labels_per_class"]
        budget = (per_class, "per class") if per_class else (result["num_labels"], "in all")
        groups.setdefault((cache, *budget, result["objective"]), {})[result["seed"]] = result
    return [_row(key, by_seed, groups) for key, by_seed in groups.items()]


def markdown(table: Sequence[Row]) -> str:
    """The rows as a Markdown table; a difference stands in bold only where its interval excludes zero."""
    controls = [c for c in CONTROLS if any(row.objective == c for row in table)]
    head = [
        "cache",
        "labels",
        "objective",
        "accuracy %",
        *(f"minus {c}" for c in controls),
        "NLL",
        "ECE",
        "s",
    ]
    open_set = any(row.auroc is not None for row in table)
    head += ["AUROC"] if open_set else []
    lines = [head, ["---"] * len(head)]
    for row in table:
        accuracy = f"{np.mean(row.accuracy):.1f}"
        if len(row.accuracy) > 1:
            accuracy += f" ± {np.std(row.accuracy, ddof=1):.1f}"
        differences = [_difference(row.against.get(control)) for control in controls]
        figures = [f"{row.nll:.2f}", f"{row.ece:.3f}", f"{row.seconds:.1f}"]
        if open_set:
            figures.append("" if row.auroc is None else f"{row.auroc:.3f}")
        lines.append([row.cache, row.labels, row.objective, accuracy, *differences, *figures])
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"


def aligned(text: str) -> str:
    """A Markdown table with its columns padded, for a terminal.

    >>> print(aligned("| a | bb |\\n| --- | --- |\\n| ccc | d |"), end="")
    a    bb
    ---  --
    ccc  d
    """
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    body = [row for i, row in enumerate(cells) if i != 1]
    widths = [max(len(row[column]) for row in body) for column in range(len(body[0]))]
    body.insert(1, ["-" * width for width in widths])
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in body]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _row(
    key: _Key,
    by_seed: Mapping[int, Mapping[str, Any]],
    groups: Mapping[_Key, Mapping[int, Mapping[str, Any]]],
) -> Row:
    cache, budget, unit, objective = key
    against = {}
    for control in CONTROLS:
        other = groups.get((cache, budget, unit, control), {})
        shared = [seed for seed in by_seed if seed in other]
        if shared and control != objective:
            against[control] = paired(
                [_accuracy(by_seed[seed]) for seed in shared], [_accuracy(other[seed]) for seed in shared]
            )
    figures = by_seed.values()
    return Row(
        *key,
        accuracy=tuple(_accuracy(result) for result in figures),
        nll=float(np.mean([result["test"]["nll"] for result in figures])),
        ece=float(np.mean([result["test"]["ece"] for result in figures])),
        seconds=float(np.mean([result["seconds"] for result in figures])),
        against=against,
        auroc=_auroc(list(figures)),
    )


def _accuracy(result: Mapping[str, Any]) -> float:
    return 100 * float(result["test"]["accuracy"])


def _auroc(results: Sequence[Mapping[str, Any]]) -> float | None:
    if not all("open_set" in result for result in results):
        return None
    return float(np.mean([result["open_set"]["auroc"] for result in results]))


def _difference(difference: Difference | None) -> str:
    if difference is None:
        return ""
    text = f"{difference.mean:+.1f}"
    if math.isfinite(difference.half_width):
        text += f" ± {difference.half_width:.1f}"
    return f"**{text}**" if difference.clear else text
