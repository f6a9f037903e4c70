"""Summarise several runs as plain values: their table, accuracy against labels, and who wins."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from featcache.page.judged import Content
from featcache.results.results_table import notes, results_table
from featcache.results.rows import Row
from featcache.results.statistics import Difference, paired


def summarise(rows: Sequence[Row], skipped: Mapping[str, str] | None = None) -> Content:
    """Return the content of the page of several runs; `skipped` says why some folders were none."""
    table, methods = results_table(rows), {row.method for row in rows}
    return {
        "kind": "study",
        "title": f"{len(methods)} methods, {sum(len(row.accuracy) for row in rows)} trainings",
        "table": {"head": list(table.head), "rows": [list(line) for line in table.rows]},
        "table_notes": notes(rows),
        "winners": winners(rows),
        "panels": panels(rows),
        "rows": [row.as_dict() for row in rows],
        "notes": [f"Skipped: {place}: {why}" for place, why in (skipped or {}).items()],
    }


def interval_of(accuracy: Sequence[float]) -> Difference:
    """Return the mean over label draws with the half-width of its 95 % interval (Student's t).

    >>> interval_of([50.0]).half_width
    inf
    """
    return paired(accuracy, [0.0] * len(accuracy))


def winners(rows: Sequence[Row]) -> list[Content]:
    """Return the row with the best mean accuracy at each budget on each cache, and the second best.

    It is the best of these test rows, which is picked with hindsight; the page says so.
    """
    found = []
    for cache, budget in dict.fromkeys((row.cache, row.budget) for row in rows):
        own = [row for row in rows if (row.cache, row.budget) == (cache, budget)]
        ordered = sorted(own, key=lambda row: -interval_of(row.accuracy).mean)
        first, second = ordered[0], ordered[1] if len(ordered) > 1 else None
        gap = None if second is None else first.differences.get(second.method)
        found.append(
            {
                "cache": cache,
                "labels": budget.label,
                "method": first.method,
                "draws": len(first.accuracy),
                **_plain(interval_of(first.accuracy)),
                "second": None if second is None else second.method,
                "second_mean": None if second is None else interval_of(second.accuracy).mean,
                "gap": None if gap is None else _plain(gap) | {"clear": gap.clear},
            }
        )
    return found


def panels(rows: Sequence[Row]) -> list[Content]:
    """Return accuracy against labels: for each cache and unit of labels, the points of each method."""
    found = []
    for cache, unit in dict.fromkeys((row.cache, row.budget.unit) for row in rows):
        own = [row for row in rows if (row.cache, row.budget.unit) == (cache, unit)]
        methods: dict[str, list[Any]] = {}
        for row in sorted(own, key=lambda row: row.budget):
            point = {"labels": row.budget.count, **_plain(interval_of(row.accuracy))}
            methods.setdefault(row.method, []).append(point)
        draws = sorted({len(row.accuracy) for row in own})
        found.append({"cache": cache, "unit": unit, "methods": methods, "draws": draws})
    return found


def _plain(value: Difference) -> Content:
    """Return mean and half-width in points of accuracy; an unknown width is None, as JSON has no infinity."""
    return {"mean": value.mean, "half_width": value.half_width if math.isfinite(value.half_width) else None}
