"""Render the content of a page as one HTML file, which asks no server for anything."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from featcache import shown
from featcache.page import charts
from featcache.page.judged import Content

MARK = "<!-- featcache report -->"
"""In the first lines of every page, so that only a page is overwritten."""


def render(content: Content) -> str:
    """Return the page: styles, pictures and scripts are inside; all text is escaped and harmless."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("featcache.page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "shade": shade}
    environment.globals["charts"] = _Charts()
    page = environment.get_template(f"{content['kind']}.html").render(_harmless(content), mark=Markup(MARK))
    return page + "\n"


def percent(share: float | None, digits: int = 1) -> str:
    """Write a share as percent.

    >>> percent(0.984), percent(None)
    ('98.4 %', '—')
    """
    return "—" if share is None else f"{100 * share:.{digits}f} %"


def shade(count: int, most: int) -> str:
    """Return how dark a cell of a matrix is, from 0 to 1."""
    return f"{(count / most) ** 0.5 if most else 0:.2f}"


class _Charts:
    """The charts that a page may ask for, from its content."""

    def training(self, name: str, values: list[list[float]]) -> Markup:
        """Draw one term of a loss by step."""
        return Markup(
            charts.lines([charts.Series(name, [(a, b) for a, b in values])], "step", name, size=charts.SMALL)
        )

    def curve(self, values: list[list[float]]) -> Markup:
        """Draw a learning curve."""
        points = [(a, 100 * b) for a, b in values]
        return Markup(charts.lines([charts.Series("linear probe", points)], "labels", "accuracy (%)"))

    def reliability(self, bins: dict[str, list[Any]], title: str) -> Markup:
        """Draw accuracy by confidence."""
        return Markup(charts.reliability(bins, title))

    def accuracy(self, panel: Content) -> Markup:
        """Draw accuracy against labels, with 95 % intervals as bands."""
        series = []
        for method, points in panel["methods"].items():
            band = [
                (p["labels"], p["mean"] - p["half_width"], p["mean"] + p["half_width"])
                for p in points
                if p["half_width"] is not None
            ]
            series.append(charts.Series(method, [(p["labels"], p["mean"]) for p in points], band))
        return Markup(charts.lines(series, f"labels {panel['unit']}", "test accuracy (%)", powers=True))


def _harmless(value: Any) -> Any:
    """Escape signs in texts that control a terminal, or turn the direction of what follows."""
    if isinstance(value, str):
        return value if value.startswith("data:image/") else shown.harmless(value)
    if isinstance(value, dict):
        return {_harmless(key): _harmless(each) for key, each in value.items()}
    return [_harmless(each) for each in value] if isinstance(value, list | tuple) else value
