"""Write rows as the table of results: accuracy, differences to the controls, calibration and time."""

from __future__ import annotations

import csv
import io
import math
import shutil
import textwrap
from collections.abc import Sequence
from typing import Any

from featcache.results.rows import CONTROLS_WITH_COLUMN, DRAWS_NEEDED, Row, methods_of
from featcache.results.statistics import CLEAR_PAIRS
from featcache.results.table import Table, difference_text, mean_text
from featcache.shown import cell

LEAST_NEEDED = ("s", "ECE", "NLL", "ECE scaled", "NLL scaled", "AUROC")
"""Columns that a narrow terminal goes without, the first one first."""


def results_table(rows: Sequence[Row], against: Sequence[str] = ()) -> Table:
    """Return one line for each row.

    A difference is bold only where it is clear. There is a column for linear and supervised
    where they were run, one for each objective in `against`, and one for the best control.
    """
    references = methods_of(rows, (*CONTROLS_WITH_COLUMN, *against))
    best = ["minus best control"] if any(row.best_control for row in rows) else []
    auroc = ["AUROC"] if any(row.auroc is not None for row in rows) else []
    head = ["cache", "labels", "objective", "accuracy %", *(f"minus {name}" for name in references), *best]
    head += ["NLL", "ECE", "NLL scaled", "ECE scaled", "s", *auroc]
    lines = []
    for row in rows:
        cells = [row.cache, row.budget.label, row.method, mean_text(row.accuracy)]
        cells += [difference_text(row.differences.get(name)) for name in references]
        cells += [_to_best_control(row)] * len(best)
        cells += [f"{row.nll:.2f}", f"{row.ece:.3f}", f"{row.nll_scaled:.2f}", f"{row.ece_scaled:.3f}"]
        cells += [f"{row.seconds:.1f}"]
        cells += ["" if row.auroc is None else f"{row.auroc:.3f}"] * len(auroc)
        lines.append(cells)
    return Table(head, lines)


def terminal_text(rows: Sequence[Row], against: Sequence[str] = (), width: int | None = None) -> str:
    """Return the table for a terminal, with the notes below it, and no wider than the terminal.

    What is the same in all rows is said above the table, then columns are left out, the least needed ones
    first; a line says which. `width` is by default that of the terminal; there is no limit without one.
    """
    limit = width or shutil.get_terminal_size((0, 0)).columns or math.inf
    table, above, left_out = results_table(rows, against), "", []
    if table.width > limit and len(caches := {row.cache for row in rows}) == 1:
        table, above = table.without("cache"), f"cache: {caches.pop()}\n"
    for name in [name for name in (*LEAST_NEEDED, *_references(table)) if name in table.head]:
        if table.width > limit:
            table = table.without(name)
            left_out.append(name)
    lines = notes(rows, "*")
    if left_out:
        lines.append(f"Left out, as the terminal is narrow: {', '.join(left_out)}.")
    said = [line for note in lines for line in _wrapped(note, limit)]
    return above + table.text() + "".join(f"{line}\n" for line in said)


def _references(table: Table) -> list[str]:
    """Return the columns of differences, those to the best control last."""
    return [name for name in table.head if name.startswith("minus ")]


def _wrapped(text: str, width: float) -> list[str]:
    return [text] if width == math.inf else textwrap.wrap(text, int(width))


def numbers(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return a line of numbers for each row: figures in percent, and two columns for each difference."""
    lines = []
    for row in rows:
        line = row.as_dict()
        del line["accuracies"]
        for name, gap in line.pop("differences").items():
            line |= {f"minus {name}": gap["mean"], f"minus {name} ±": gap["half_width"]}
        lines.append(line)
    return lines


def csv_text(rows: Sequence[Row]) -> str:
    """Return `numbers` as CSV; a cell is empty where a row has no such number."""
    lines = numbers(rows)
    names = list(dict.fromkeys(name for line in lines for name in line))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {name: cell(value) if isinstance(value, str) else value for name, value in line.items()}
        for line in lines
    )
    return buffer.getvalue()


def notes(rows: Sequence[Row], clear: str = "bold") -> list[str]:
    """Return the lines to put under a table: what its figures are, and whether label draws are too few.

    `clear` says how the table marks a clear difference.
    """
    gaps = [gap for row in rows for gap in row.differences.values()]
    found = []
    if any(len(row.accuracy) > 1 for row in rows):
        found.append("accuracy %: mean ± standard deviation over the label draws.")
    if any(gap.pairs > 1 for gap in gaps):
        found.append(
            "minus NAME: mean difference on the same label draws, in points of accuracy, ± half the width of "
            f"its 95 % interval (Student's t); {clear}: it excludes zero, from {CLEAR_PAIRS} draws on."
        )
    if gaps and any(row.best_control for row in rows):
        found.append("best control: the one with the best test accuracy, which is picked with hindsight.")
    fewest = min((len(row.accuracy) for row in rows), default=DRAWS_NEEDED)
    if fewest < DRAWS_NEEDED:
        draws = f"{fewest} label draw{'s' if fewest > 1 else ''}"
        found.append(f"Only {draws}: at least {DRAWS_NEEDED} are needed for a meaningful interval.")
    return found


def _to_best_control(row: Row) -> str:
    text = difference_text(row.differences.get(row.best_control)) if row.best_control else ""
    return f"{text} ({row.best_control})" if text else ""
