"""Charts as inline SVG, whose colours and fonts are those of the page, in light and in dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

LEFT, TOP, BOTTOM = 52, 12, 40
COLOURS = 8
"""Colours of the page; further series repeat them with another dash."""
DASHES = ("", "6 3", "2 3", "8 3 2 3")
LINE = 17
"""Height of a label."""
DIGITS = 6
"""Digits of the numbers at an axis."""
Point = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """A line with a name, and a band around it."""

    name: str
    points: Sequence[Point]
    band: Sequence[tuple[float, float, float]] = ()
    """x, and the lower and upper end of the band there."""


@dataclass(frozen=True)
class Size:
    """Width and height of a chart, and the room at its right for the names of lines."""

    width: int = 640
    height: int = 320
    right: int = 132


WHOLE, SMALL = Size(), Size(360, 220, 12)


@dataclass(frozen=True)
class Axis:
    """An axis from `low` to `high`, with the values to mark on it."""

    label: str
    low: float
    high: float
    ticks: Sequence[float] = ()
    log: bool = False
    begin: float = 0.0
    """Where it begins in the picture, and where it ends."""
    end: float = 1.0

    def place(self, value: float) -> float:
        """Return the coordinate of a value in the picture."""
        low, high, value = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        share = 0.5 if high == low else (value - low) / (high - low)
        return self.begin + share * (self.end - self.begin)


@dataclass
class _Drawing:
    size: Size
    parts: list[str] = field(default_factory=list)

    def text(self, x: float, y: float, text: str, anchor: str, more: str = "") -> None:
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{more}>{escape(text)}</text>')

    def svg(self, title: str, height: float = 0) -> str:
        body, tall = "".join(self.parts), max(height, self.size.height)
        kind = "chart" if self.size == WHOLE else "chart small"
        return (
            f'<svg class="{kind}" viewBox="0 0 {self.size.width} {tall:.0f}" role="img" '
            f'aria-label="{escape(title)}">'
            f"<title>{escape(title)}</title>{body}</svg>"
        )


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return round values from `low` to `high`, about `count` of them.

    >>> ticks(0.0, 97.0), ticks(0.2, 0.9)
    ([0.0, 20.0, 40.0, 60.0, 80.0], [0.2, 0.4, 0.6, 0.8])
    """
    if not high > low:
        return [low]
    raw = (high - low) / count
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(size * m for m in (1, 2, 5, 10) if size * m >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(n * step, 10) for n in range(first, last + 1)]


def lines(series: Sequence[Series], x: str, y: str, *, size: Size = WHOLE, powers: bool = False) -> str:
    """Draw lines with a name at the end of each; a small chart has no names.

    With `powers`, x is logarithmic and every x is marked. Values that are not finite are left out.
    """
    drawing = _Drawing(size)
    points = [p for one in series for p in one.points if math.isfinite(p[1])]
    if not points:
        return ""
    ends = [end for one in series for _, *ends in one.band for end in ends if math.isfinite(end)]
    values, places = [*(p[1] for p in points), *ends], sorted({p[0] for p in points})
    low, high = min(values), max(values)
    pad = 0.05 * (high - low) or 0.5
    across = Axis(
        x,
        places[0],
        places[-1],
        places if powers else ticks(places[0], places[-1]),
        log=powers,
        begin=LEFT + 6,
        end=size.width - size.right,
    )
    up = Axis(y, low - pad, high + pad, ticks(low - pad, high + pad), begin=size.height - BOTTOM, end=TOP)
    _draw_axes(drawing, across, up)
    lowest = _name_places([up.place(one.points[-1][1]) for one in series if one.points])
    for number, (one, name_y) in enumerate(zip((s for s in series if s.points), lowest, strict=True)):
        _draw_series(drawing, one, number, across, up, name_y)
    return drawing.svg(f"{y} by {x}", max(lowest) + LINE)


def reliability(bins: dict[str, list[Any]], title: str) -> str:
    """Draw accuracy by confidence: a bar is as wide as its bin, and as dark as its share of the samples."""
    side = 260
    drawing = _Drawing(Size(LEFT + side + 12, TOP + side + BOTTOM, 12))
    across = Axis("confidence", 0, 1, (0, 0.5, 1), begin=LEFT, end=LEFT + side)
    up = Axis("accuracy", 0, 1, (0, 0.5, 1), begin=TOP + side, end=TOP)
    _draw_axes(drawing, across, up)
    count, most = len(bins["count"]), max(bins["count"])
    for number, (samples, accuracy) in enumerate(zip(bins["count"], bins["accuracy"], strict=True)):
        if samples:
            left, right = across.place(number / count), across.place((number + 1) / count)
            top = up.place(accuracy)
            shade = 0.25 + 0.75 * samples / most
            drawing.parts.append(
                f'<rect class="bar" x="{left + 1:.1f}" y="{top:.1f}" width="{right - left - 2:.1f}" '
                f'height="{max(up.begin - top, 1.5):.1f}" fill-opacity="{shade:.2f}">'
                f"<title>{samples:,} samples, accuracy {100 * accuracy:.0f} %</title></rect>"
            )
    drawing.parts.append(f'<path class="diagonal" d="M{across.begin} {up.begin}L{across.end} {up.end}"/>')
    return drawing.svg(title)


def _draw_axes(drawing: _Drawing, across: Axis, up: Axis) -> None:
    last = -math.inf
    for value in across.ticks:
        place = across.place(value)
        if place - last >= 24:  # the labels of nearer ones would overlap
            drawing.text(place, up.begin + 16, f"{value:.{DIGITS}g}", "middle")
            last = place
    for value in up.ticks:
        place = up.place(value)
        drawing.parts.append(f'<path class="grid" d="M{LEFT} {place:.1f}H{across.end:.1f}"/>')
        drawing.text(LEFT - 6, place + 4, f"{value:.{DIGITS}g}", "end")
    drawing.text((across.begin + across.end) / 2, up.begin + 34, across.label, "middle")
    if drawing.size != SMALL:
        middle = (up.begin + up.end) / 2
        drawing.text(14, middle, up.label, "middle", f' transform="rotate(-90 14 {middle:.1f})"')


def _draw_series(drawing: _Drawing, one: Series, number: int, across: Axis, up: Axis, name_y: float) -> None:
    kept = [(across.place(a), up.place(b)) for a, b in one.points if math.isfinite(b)]
    colour, dash = f"s{number % COLOURS}", DASHES[number // COLOURS % len(DASHES)]
    if one.band:
        there = [(across.place(a), up.place(low), up.place(high)) for a, low, high in one.band]
        edge = [*((a, high) for a, _, high in there), *((a, low) for a, low, _ in reversed(there))]
        drawing.parts.append(f'<path class="band {colour}" d="{_path(edge)}Z"/>')
    style = f' stroke-dasharray="{dash}"' if dash else ""
    drawing.parts.append(f'<path class="line {colour}" d="{_path(kept)}"{style}/>')
    if len(kept) <= 20:
        drawing.parts += [f'<circle class="dot {colour}" cx="{a:.1f}" cy="{b:.1f}" r="3"/>' for a, b in kept]
    if drawing.size == WHOLE:
        drawing.text(across.end + 8, name_y + 4, _short(one.name), "start", f' class="{colour}"')


def _path(points: Sequence[Point]) -> str:
    return "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in points)


def _short(name: str) -> str:
    return name if len(name) <= 20 else f"{name[:19]}…"


def _name_places(wanted: Sequence[float]) -> list[float]:
    """Move the heights of names apart, so that none covers another.

    >>> _name_places([100.0, 100.0, 50.0])
    [100.0, 117.0, 50.0]
    """
    places, last = [0.0] * len(wanted), -math.inf
    for number in sorted(range(len(wanted)), key=lambda n: wanted[n]):
        last = places[number] = max(wanted[number], last + LINE)
    return places
