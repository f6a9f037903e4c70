"""A study as a picture: accuracy against labels, one line per objective with its spread over label draws."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from itertools import cycle, product
from typing import TYPE_CHECKING

import numpy as np

from featcache.report.table import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
"""Okabe and Ito's, which people with any kind of colour vision can tell apart."""
STYLES = tuple(product("osD^", _COLOURS))
"""Marker and colour, objective by objective."""
_WIDTH, _HEIGHT, _DPI = 5.2, 4.0, 150


def png(rows: Sequence[Row]) -> bytes:
    """One panel for each cache and way of counting labels; the same rows give the same bytes.

    Lines are means over label draws, bands one standard deviation to each side.
    """
    from matplotlib.figure import Figure

    panels = list(dict.fromkeys((row.cache, row.unit) for row in rows))
    figure = Figure(figsize=(_WIDTH * len(panels), _HEIGHT), layout="constrained")
    styles = dict(zip(dict.fromkeys(row.objective for row in rows), cycle(STYLES)))
    for (cache, unit), axes in zip(panels, figure.subplots(1, len(panels), squeeze=False)[0], strict=True):
        _panel(axes, [row for row in rows if (row.cache, row.unit) == (cache, unit)], styles)
        axes.set(title=cache, xlabel=f"labels {unit}", ylabel="test accuracy (%)")
    return rendered(figure)


def rendered(figure: Figure) -> bytes:
    """The picture as PNG; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    return buffer.getvalue()


def _panel(axes: Axes, rows: Sequence[Row], styles: Mapping[str, tuple[str, str]]) -> None:
    for objective in dict.fromkeys(row.objective for row in rows):
        own = sorted((row for row in rows if row.objective == objective), key=lambda row: row.budget)
        mean = np.array([np.mean(row.accuracy) for row in own])
        spread = np.array([np.std(row.accuracy, ddof=1) if len(row.accuracy) > 1 else 0.0 for row in own])
        budgets = [row.budget for row in own]
        marker, colour = styles[objective]
        axes.plot(budgets, mean, label=objective, color=colour, marker=marker)
        axes.fill_between(budgets, mean - spread, mean + spread, color=colour, alpha=0.15, linewidth=0)
    budgets = sorted({row.budget for row in rows})
    axes.set_xscale("log", base=2)
    axes.set_xticks(budgets, [str(budget) for budget in budgets])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
