"""Draw studies: accuracy against labels, and accuracy against confidence (reliability diagrams)."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle, product
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featcache.results.rows import Budget, Outcome, Row
from featcache.results.statistics import mean_and_std

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
"""The palette of Okabe and Ito, which people with any kind of colour vision can tell apart."""
_STYLES = tuple(product("osD^", _COLOURS))
_DPI = 150
LEAST_SHARE = 0.01
"""Share of the samples below which a bin is not drawn: its accuracy would be noise."""
_Styles = Mapping[str, tuple[str, str]]
"""Marker and colour, by objective."""


def accuracy_png(rows: Sequence[Row]) -> bytes:
    """Draw accuracy against labels as PNG, one panel for each cache and unit of labels.

    Lines are means over label draws; bands are one standard deviation to each side. The same rows give the
    same bytes.
    """
    from matplotlib.figure import Figure

    panels = list(dict.fromkeys((row.cache, row.budget.unit) for row in rows))
    figure = Figure(figsize=(5.2 * len(panels), 4.0), layout="constrained")
    styles = _styles(row.method for row in rows)
    for (cache, unit), axes in zip(panels, figure.subplots(1, len(panels), squeeze=False)[0], strict=True):
        _draw_accuracy(axes, [row for row in rows if (row.cache, row.budget.unit) == (cache, unit)], styles)
        axes.set(title=cache, xlabel=f"labels {unit}", ylabel="test accuracy (%)")
    return _png(figure)


def reliability_png(outcomes: Sequence[Outcome]) -> bytes:
    """Draw reliability diagrams as PNG: a column for each cache and unit of labels.

    The upper row is before, the lower row after temperature scaling. Each panel shows the largest budget,
    with the samples of all label draws together. Perfect calibration lies on the diagonal.
    """
    from matplotlib.figure import Figure

    largest: dict[tuple[str, str], Budget] = {}
    for outcome in outcomes:
        budget = Budget.of(outcome.result)
        panel = (outcome.cache, budget.unit)
        largest[panel] = max(budget, largest.get(panel, budget))
    figure = Figure(figsize=(4.4 * len(largest), 8.0), layout="constrained")
    styles = _styles(outcome.objective for outcome in outcomes)
    grid = figure.subplots(2, len(largest), squeeze=False, sharex=True, sharey=True)
    for column, ((cache, unit), budget) in enumerate(largest.items()):
        shown = [o for o in outcomes if o.cache == cache and Budget.of(o.result) == budget]
        for axes, when in zip(grid[:, column], ("before", "after"), strict=True):
            _draw_reliability(axes, shown, when, styles)
            axes.set_title(f"{cache}, {budget.count} labels {unit}, {when} scaling")
        grid[1, column].set_xlabel("confidence")
    for axes in grid[:, 0]:
        axes.set_ylabel("accuracy")
    grid[0, 0].legend(frameon=False, fontsize="small")
    return _png(figure)


def merge_bins(
    tables: Iterable[Mapping[str, Sequence[Any]]],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return confidence and accuracy by bin, over several tables of bins weighted by their counts.

    >>> table = {"count": [0, 4], "confidence": [None, 0.8], "accuracy": [None, 0.5]}
    >>> [values.tolist() for values in merge_bins([table, table])]
    [[0.8], [0.5]]
    """
    found = list(tables)
    counts = np.array([table["count"] for table in found], float)
    total = counts.sum(0)
    kept = total >= max(1.0, LEAST_SHARE * total.sum())
    means = [
        (counts * np.array([[0.0 if v is None else v for v in table[name]] for table in found])).sum(0)[kept]
        / total[kept]
        for name in ("confidence", "accuracy")
    ]
    return means[0], means[1]


def _draw_accuracy(axes: Axes, rows: Sequence[Row], styles: _Styles) -> None:
    for method in dict.fromkeys(row.method for row in rows):
        own = sorted((row for row in rows if row.method == method), key=lambda row: row.budget)
        figures = [mean_and_std(row.accuracy) for row in own]
        mean, std = np.array([mean for mean, _ in figures]), np.array([std or 0.0 for _, std in figures])
        budgets = [row.budget.count for row in own]
        marker, colour = styles[method]
        axes.plot(budgets, mean, label=method, color=colour, marker=marker)
        axes.fill_between(budgets, mean - std, mean + std, color=colour, alpha=0.15, linewidth=0)
    budgets = sorted({row.budget.count for row in rows})
    axes.set_xscale("log", base=2)
    axes.set_xticks(budgets, [str(budget) for budget in budgets])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)


def _draw_reliability(axes: Axes, outcomes: Sequence[Outcome], when: str, styles: _Styles) -> None:
    axes.plot([0, 1], [0, 1], color="#999999", linestyle="--", linewidth=1)
    for objective in dict.fromkeys(outcome.objective for outcome in outcomes):
        bins = [o.result["test"]["reliability"][when] for o in outcomes if o.objective == objective]
        marker, colour = styles[objective]
        axes.plot(
            *merge_bins(bins), label=objective, color=colour, marker=marker, markersize=4, linewidth=1.2
        )
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes.grid(alpha=0.3)


def _styles(methods: Iterable[str]) -> _Styles:
    return dict(zip(dict.fromkeys(methods), cycle(_STYLES)))


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    # Without the version of matplotlib, the same figure gives the same bytes.
    figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    return buffer.getvalue()
