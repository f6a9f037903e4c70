"""Write rows as the table of results: accuracy, differences to the controls, calibration and time."""

from __future__ import annotations

from collections.abc import Sequence

from featcache.report.rows import CONTROLS_WITH_COLUMN, DRAWS_NEEDED, Row, methods_of
from featcache.report.table import Table, difference_text, mean_text


def results_table(rows: Sequence[Row], against: Sequence[str] = ()) -> Table:
    """Return one line for each row.

    A difference is bold only where its interval excludes zero. There is a column for linear and supervised
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


def few_draws_note(rows: Sequence[Row]) -> str:
    """Return a line to put under a table with too few label draws; "" where there are enough."""
    fewest = min((len(row.accuracy) for row in rows), default=DRAWS_NEEDED)
    if fewest >= DRAWS_NEEDED:
        return ""
    draws = f"{fewest} label draw{'s' if fewest > 1 else ''}"
    return f"Only {draws}: at least {DRAWS_NEEDED} are needed for a meaningful interval.\n"


def _to_best_control(row: Row) -> str:
    text = difference_text(row.differences.get(row.best_control)) if row.best_control else ""
    return f"{text} ({row.best_control})" if text else ""
