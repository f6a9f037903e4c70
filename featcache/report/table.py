"""Results of many runs side by side: mean, spread over label draws, paired differences and their interval."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

_Key = tuple[str, int, str, str]
"""Cache, budget, unit and objective."""
CONTROLS = ("zero_shot", "knn", "linear", "supervised")
"""What every method is compared with, on the same label draws."""
COLUMNS = ("linear", "supervised")
"""Controls that have a column of their own; the best of all four has one more."""
ENOUGH = 5
"""Label draws from which on an interval says something."""


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
    nll_scaled: float
    """Both after temperature scaling on the labelled samples."""
    ece_scaled: float
    seconds: float
    against: Mapping[str, Difference]
    """Paired with each control that was run, and with what else was asked for."""
    best: str | None = None
    """The control with the best mean accuracy at this budget, over its draws."""
    auroc: float | None = None
    """Confidence in known against unknown classes, where some are."""

    @property
    def labels(self) -> str:
        """The budget as the table shows it: `4/class`, `24 in all`."""
        return shown(self.budget, self.unit)


def rows(results: Iterable[tuple[str, Mapping[str, Any]]], against: Sequence[str] = ()) -> list[Row]:
    """Group (cache name, result.json) pairs by cache, budget and objective, in the order they come.

    Each is paired with the controls, and with the objectives or variants named in `against`.
    """
    groups: dict[_Key, dict[int, Mapping[str, Any]]] = {}
    for cache, result in results:
        groups.setdefault((cache, *budget_of(result), result["objective"]), {})[result["seed"]] = result
    return [_row(key, by_seed, groups, (*CONTROLS, *against)) for key, by_seed in groups.items()]


def budget_of(result: Mapping[str, Any]) -> tuple[int, str]:
    """How many labels, and how they are counted: `per class` or `in all`."""
    per_class = result["labels_per_class"]
    return (per_class, "per class") if per_class else (result["num_labels"], "in all")


def shown(budget: int, unit: str) -> str:
    """The budget as a table shows it: `4/class`, `24 in all`."""
    return f"{budget}/class" if unit == "per class" else f"{budget} {unit}"


def markdown(table: Sequence[Row], against: Sequence[str] = ()) -> str:
    """The rows as a Markdown table; a difference stands in bold only where its interval excludes zero.

    There is a column for each control that was run, and for each name in `against`.
    """
    controls = [c for c in (*COLUMNS, *against) if any(row.objective == c for row in table)]
    best = ["minus best control"] if any(row.best for row in table) else []
    head = [
        "cache",
        "labels",
        "objective",
        "accuracy %",
        *(f"minus {c}" for c in controls),
        *best,
        "NLL",
        "ECE",
        "NLL scaled",
        "ECE scaled",
        "s",
    ]
    open_set = any(row.auroc is not None for row in table)
    head += ["AUROC"] if open_set else []
    lines = [head, ["---"] * len(head)]
    for row in table:
        differences = [difference(row.against.get(control)) for control in controls]
        differences += [_to_best(row)] * len(best)
        figures = [f"{row.nll:.2f}", f"{row.ece:.3f}", f"{row.nll_scaled:.2f}", f"{row.ece_scaled:.3f}"]
        figures.append(f"{row.seconds:.1f}")
        if open_set:
            figures.append("" if row.auroc is None else f"{row.auroc:.3f}")
        cells = [row.cache, row.labels, row.objective, mean_and_spread(np.array(row.accuracy)), *differences]
        lines.append([*cells, *figures])
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"


def note(table: Sequence[Row]) -> str:
    """A line to stand under a table of too few draws; empty where there are enough."""
    fewest = min((len(row.accuracy) for row in table), default=ENOUGH)
    if fewest >= ENOUGH:
        return ""
    draws = f"{fewest} label draw{'s' if fewest > 1 else ''}"
    return f"Only {draws}: {ENOUGH} at least are needed before an interval says much.\n"


def mean_and_spread(values: NDArray[np.float64]) -> str:
    """Mean and, of several values, standard deviation.

    >>> mean_and_spread(np.array([50.0, 60.0, 70.0]))
    '60.0 ± 10.0'
    """
    spread = f" ± {values.std(ddof=1):.1f}" if len(values) > 1 else ""
    return f"{values.mean():.1f}{spread}"


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
    others: Sequence[str],
) -> Row:
    cache, budget, unit, objective = key
    against = {}
    for control in others:
        other = groups.get((cache, budget, unit, control), {})
        shared = [seed for seed in by_seed if seed in other]
        if shared and control != objective:
            against[control] = paired(
                [_accuracy(by_seed[seed]) for seed in shared], [_accuracy(other[seed]) for seed in shared]
            )
    figures = by_seed.values()

    def mean(name: str) -> float:
        return float(np.mean([result["test"][name] for result in figures]))

    return Row(
        *key,
        accuracy=tuple(_accuracy(result) for result in figures),
        nll=mean("nll"),
        ece=mean("ece"),
        nll_scaled=mean("nll_scaled"),
        ece_scaled=mean("ece_scaled"),
        seconds=float(np.mean([result["seconds"] for result in figures])),
        against=against,
        best=_best_control((cache, budget, unit), groups),
        auroc=_auroc(list(figures)),
    )


def _best_control(
    budget: tuple[str, int, str], groups: Mapping[_Key, Mapping[int, Mapping[str, Any]]]
) -> str | None:
    means = {
        control: np.mean([_accuracy(result) for result in groups[*budget, control].values()])
        for control in CONTROLS
        if (*budget, control) in groups
    }
    return max(means, key=lambda control: means[control]) if means else None


def _accuracy(result: Mapping[str, Any]) -> float:
    return 100 * float(result["test"]["accuracy"])


def _auroc(results: Sequence[Mapping[str, Any]]) -> float | None:
    if not all("open_set" in result for result in results):
        return None
    return float(np.mean([result["open_set"]["auroc"] for result in results]))


def _to_best(row: Row) -> str:
    text = difference(row.against.get(row.best)) if row.best else ""
    return f"{text} ({row.best})" if text else ""


def difference(gap: Difference | None) -> str:
    """Mean and half-width, in bold where the interval excludes zero; nothing for None.

    >>> difference(Difference(2.0, 1.0)), difference(Difference(2.0, 3.0)), difference(None)
    ('**+2.0 ± 1.0**', '+2.0 ± 3.0', '')
    """
    if gap is None:
        return ""
    text = f"{gap.mean:+.1f}"
    if math.isfinite(gap.half_width):
        text += f" ± {gap.half_width:.1f}"
    return f"**{text}**" if gap.clear else text
