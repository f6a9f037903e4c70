"""Write rows as the table of results: accuracy, differences to the controls, calibration and time."""

from __future__ import annotations

from collections.abc import Sequence

from featcache.report.rows import CONTROLS_WITH_COLUMN, DRAWS_NEEDED, Row, methods_of
from featcache.report.statistics import CLEAR_PAIRS
from featcache.report.table import Table, difference_text, mean_text


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
