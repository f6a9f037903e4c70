"""The reliability diagram of a study: accuracy against confidence, before and after temperature scaling."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featcache.report.plot import STYLES, rendered
from featcache.report.table import budget_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LEAST = 0.01
"""Share of the samples below which a bin is not drawn: its accuracy would be noise."""
_Curve = tuple[NDArray[np.float64], NDArray[np.float64]]


def png(results: Sequence[tuple[str, Mapping[str, Any]]]) -> bytes:
    """Of (cache name, result.json) pairs: a column for each cache and unit of labels, after below before.

    Each shows the largest budget, the samples of all draws together; on the diagonal, calibration is perfect.
    """
    from matplotlib.figure import Figure

    panels: dict[tuple[str, str], int] = {}
    for cache, result in results:
        n, unit = budget_of(result)
        panels[cache, unit] = max(n, panels.get((cache, unit), 0))
    figure = Figure(figsize=(4.4 * len(panels), 8.0), layout="constrained")
    objectives = dict.fromkeys(result["objective"] for _, result in results)
    styles = dict(zip(objectives, cycle(STYLES)))
    grid = figure.subplots(2, len(panels), squeeze=False, sharex=True, sharey=True)
    for column, ((cache, unit), n) in enumerate(panels.items()):
        own = [r for name, r in results if name == cache and budget_of(r) == (n, unit)]
        for axes, when in zip(grid[:, column], ("before", "after"), strict=True):
            _panel(axes, own, when, styles)
            axes.set_title(f"{cache}, {n} {'labels ' + unit}, {when} scaling")
        grid[1, column].set_xlabel("confidence")
    for axes in grid[:, 0]:
        axes.set_ylabel("accuracy")
    grid[0, 0].legend(frameon=False, fontsize="small")
    return rendered(figure)


def pooled(tables: Iterable[Mapping[str, Sequence[Any]]]) -> _Curve:
    """Confidence and accuracy by bin over several tables of bins, each weighted by its count.

    >>> table = {"count": [0, 4], "confidence": [None, 0.8], "accuracy": [None, 0.5]}
    >>> [values.tolist() for values in pooled([table, table])]
    [[0.8], [0.5]]
    """
    found = list(tables)
    counts = np.array([table["count"] for table in found], float)
    total = counts.sum(0)
    kept = total >= max(1.0, LEAST * total.sum())
    means = [
        (counts * np.array([[0.0 if v is None else v for v in table[name]] for table in found])).sum(0)[kept]
        / total[kept]
        for name in ("confidence", "accuracy")
    ]
    return means[0], means[1]


def _panel(
    axes: Axes, results: Sequence[Mapping[str, Any]], when: str, styles: Mapping[str, tuple[str, str]]
) -> None:
    axes.plot([0, 1], [0, 1], color="#999999", linestyle="--", linewidth=1)
    for objective in dict.fromkeys(result["objective"] for result in results):
        own = [r["test"]["reliability"][when] for r in results if r["objective"] == objective]
        marker, colour = styles[objective]
        axes.plot(*pooled(own), label=objective, color=colour, marker=marker, markersize=4, linewidth=1.2)
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes.grid(alpha=0.3)
