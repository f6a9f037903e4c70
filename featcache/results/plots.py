"""Draw studies: accuracy against labels, and accuracy against confidence (reliability diagrams)."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle, product
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from featcache.results.rows import Budget, Outcome, Row
from featcache.results.statistics import mean_and_std

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
"""The palette of Okabe and Ito, which people with any kind of colour vision can tell apart."""
_SHAPES = (("o", "-"), ("s", "--"), ("D", ":"))
"""Markers and kinds of line, which change where the colours begin again."""
_STYLES = tuple((*shape, colour) for shape, colour in product(_SHAPES, _COLOURS))
_DPI = 150
LEAST_SHARE = 0.01
"""Share of the samples below which a bin is not drawn: its accuracy would be noise."""
_LINE = 0.042
"""Height of a label at the end of a line, as a share of the height of a panel."""
_Styles = Mapping[str, tuple[str, str, str]]
"""Marker, kind of line and colour, by objective."""


def accuracy_plot(rows: Sequence[Row]) -> Figure:
    """Draw accuracy against labels, one panel for each cache and unit of labels.

    Lines are means over label draws; bands are one standard deviation to each side. Each line has its name at
    its end.
    """
    from matplotlib.figure import Figure

    panels = list(dict.fromkeys((row.cache, row.budget.unit) for row in rows))
    figure = Figure(figsize=(5.2 * len(panels), 4.0), layout="constrained")
    styles = _styles(row.method for row in rows)
    for (cache, unit), axes in zip(panels, figure.subplots(1, len(panels), squeeze=False)[0], strict=True):
        _draw_accuracy(axes, [row for row in rows if (row.cache, row.budget.unit) == (cache, unit)], styles)
        axes.set(title=cache, xlabel=f"labels {unit}", ylabel="test accuracy (%)")
    figure.supxlabel(_caption(rows), fontsize="small", color="#555555")
    return figure


def reliability_plot(outcomes: Sequence[Outcome]) -> Figure:
    """Draw reliability diagrams: a column for each cache and unit of labels.

    The upper row is before, the lower row after temperature scaling. Each panel shows the largest budget,
    with the samples of all label draws together. The area of a point is the share of the samples in its bin.
    Perfect calibration lies on the diagonal.
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
    figure.supxlabel("area of a point: share of the samples", fontsize="small", color="#555555")
    return figure


def png(figure: Figure) -> bytes:
    """Return a figure as PNG; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    # Without the version of matplotlib.
    figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    return buffer.getvalue()


def svg(figure: Figure) -> bytes:
    """Return a figure as SVG, in which text is text; the same figure gives the same bytes."""
    import matplotlib

    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "featcache", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


class Bins(NamedTuple):
    """Bins of a reliability diagram that hold enough samples."""

    confidence: NDArray[np.float64]
    """(n,) means, like `accuracy`."""
    accuracy: NDArray[np.float64]
    share: NDArray[np.float64]
    """(n,) of all samples."""


def merge_bins(tables: Iterable[Mapping[str, Sequence[Any]]]) -> Bins:
    """Return confidence, accuracy and share by bin, over several tables of bins weighted by their counts.

    >>> table = {"count": [0, 4], "confidence": [None, 0.8], "accuracy": [None, 0.5]}
    >>> [values.tolist() for values in merge_bins([table, table])]
    [[0.8], [0.5], [1.0]]
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
    return Bins(means[0], means[1], total[kept] / total.sum())


def _caption(rows: Sequence[Row]) -> str:
    """Say what a line and a band are, and of how many draws and test samples."""
    draws = _range(len(row.accuracy) for row in rows)
    samples = {row.samples for row in rows if row.samples}
    tested = f", on {_range(samples)} test samples" if samples else ""
    if draws == "1":
        return f"one label draw{tested}"
    return f"lines: means over {draws} label draws; bands: one standard deviation{tested}"


def _range(numbers: Iterable[int]) -> str:
    """Return one number, or the smallest and the largest.

    >>> _range([5, 5]), _range([1000, 5])
    ('5', '5 to 1,000')
    """
    found = sorted(set(numbers))
    return f"{found[0]:,}" if len(found) == 1 else f"{found[0]:,} to {found[-1]:,}"


def _draw_accuracy(axes: Axes, rows: Sequence[Row], styles: _Styles) -> None:
    ends: dict[str, tuple[int, float]] = {}
    for method in dict.fromkeys(row.method for row in rows):
        own = sorted((row for row in rows if row.method == method), key=lambda row: row.budget)
        figures = [mean_and_std(row.accuracy) for row in own]
        mean, std = np.array([mean for mean, _ in figures]), np.array([std or 0.0 for _, std in figures])
        budgets = [row.budget.count for row in own]
        marker, line, colour = styles[method]
        axes.plot(budgets, mean, label=method, color=colour, marker=marker, linestyle=line)
        ends[method] = (budgets[-1], float(mean[-1]))
        axes.fill_between(budgets, mean - std, mean + std, color=colour, alpha=0.15, linewidth=0)
    budgets = sorted({row.budget.count for row in rows})
    axes.set_xscale("log", base=2)
    axes.set_xticks(budgets, [str(budget) for budget in budgets])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    _name_lines(axes, ends, styles)


def _name_lines(axes: Axes, ends: Mapping[str, tuple[int, float]], styles: _Styles) -> None:
    """Write the name of each line at its end, in its colour, where names do not overlap."""
    low, high = axes.get_ylim()
    order = sorted(ends, key=lambda name: ends[name][1])
    for name, place in zip(
        order, spread([(ends[n][1] - low) / (high - low) for n in order], _LINE), strict=True
    ):
        axes.annotate(
            name,
            ends[name],
            xytext=(1.03, place),
            textcoords="axes fraction",
            color=styles[name][2],
            fontsize="small",
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": styles[name][2], "linewidth": 0.5, "alpha": 0.6},
        )


def spread(places: Sequence[float], gap: float) -> list[float]:
    """Move sorted places apart, to `gap` or more, with the smallest sum of squared moves.

    >>> spread([0.0, 0.5, 0.5], 0.1)
    [0.0, 0.45, 0.55]
    """
    # Without the gaps the places only have to keep their order, which is isotonic regression.
    from sklearn.isotonic import isotonic_regression

    steps = gap * np.arange(len(places))
    return [round(float(place), 6) for place in isotonic_regression(np.array(places) - steps) + steps]


def _draw_reliability(axes: Axes, outcomes: Sequence[Outcome], when: str, styles: _Styles) -> None:
    axes.plot([0, 1], [0, 1], color="#999999", linestyle="--", linewidth=1)
    for objective in dict.fromkeys(outcome.objective for outcome in outcomes):
        bins = [o.result["test"]["reliability"][when] for o in outcomes if o.objective == objective]
        marker, line, colour = styles[objective]
        confidence, accuracy, share = merge_bins(bins)
        axes.plot(confidence, accuracy, color=colour, linestyle=line, linewidth=0.8)
        axes.scatter(confidence, accuracy, 200 * share + 2, color=colour, marker=marker, label=objective)
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes.grid(alpha=0.3)


def _styles(methods: Iterable[str]) -> _Styles:
    return dict(zip(dict.fromkeys(methods), cycle(_STYLES)))
