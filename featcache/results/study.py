"""Turn the trainings of a pipeline into a study: tables, plots, and the settings selected for it."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from featcache.files import explained, write_atomic
from featcache.results.plots import accuracy_plot, png, reliability_plot, svg
from featcache.results.probes import probes_table
from featcache.results.results_table import csv_text, notes, results_table, terminal_text
from featcache.results.rows import Row, group_rows
from featcache.results.selection import Selection, Trained, select_settings, selections_table
from featcache.results.table import Table

_SELECTIONS = (
    "Settings selected for each label draw without test labels (the table above uses the first rule):"
)
_PROBES = "Test accuracy of k nearest neighbours and of a linear probe, before and after training:"


@dataclass(frozen=True, repr=False)
class Study:
    """The results of a pipeline."""

    rows: list[Row]
    against: tuple[str, ...]
    """Objectives that rows are compared with besides the controls."""
    probes: Table | None
    """Probes of the representation before and after; None where no objective asks for them."""
    selections: list[Selection]
    """For objectives with several settings: the selection of every rule."""
    extraction: float | None
    """Seconds of all extractions; None where one was interrupted and continued, or none was needed."""
    trainings: list[tuple[str, float]]
    """Objective and seconds of every training."""
    table: Path
    plot: Path
    page: Path | None = None
    """The report, one HTML file."""

    def describe(self) -> str:
        """Return the tables, the time of each stage, and the paths of table and plot, for a terminal."""
        total = sum(seconds for _, seconds in self.trainings)
        lines = [terminal_text(self.rows, self.against)]
        lines += [f"{title}\n{table.text()}" for title, table in self._more_tables()]
        extraction = "earlier, or in several parts" if self.extraction is None else f"{self.extraction:.1f} s"
        count = f"{len(self.trainings)} training{'s' if len(self.trainings) > 1 else ''}"
        lines.append(f"extraction: {extraction}; {count}: {total:.1f} s")
        if self.extraction is not None:
            lines.append(self._second_experiment(self.extraction))
        lines += [f"table: {self.table}", f"plot: {self.plot}"]
        return "\n".join([*lines, *([] if self.page is None else [f"report: {self.page}"])])

    def __repr__(self) -> str:
        return self.describe()

    def _repr_html_(self) -> str:
        main = results_table(self.rows, self.against).html()
        main += "".join(f"<p>{html.escape(note)}</p>" for note in notes(self.rows))
        more = (f"<p>{html.escape(title)}</p>{table.html()}" for title, table in self._more_tables())
        return main + "".join(more)

    def markdown(self) -> str:
        """Return the tables as a page."""
        parts = [results_table(self.rows, self.against).markdown(), _paragraph(notes(self.rows))]
        for title, table in self._more_tables():
            parts += [f"{title}\n", table.markdown()]
        return "\n".join(filter(None, parts))

    def as_dict(self) -> dict[str, Any]:
        """Return the results as values that JSON can hold."""
        return {
            "rows": [row.as_dict() for row in self.rows],
            "extraction_seconds": self.extraction,
            "training_seconds": sum(seconds for _, seconds in self.trainings),
            "table": str(self.table),
            "plot": str(self.plot),
            "page": None if self.page is None else str(self.page),
        }

    def _more_tables(self) -> list[tuple[str, Table]]:
        tables = [(_PROBES, self.probes)] if self.probes else []
        return tables + ([(_SELECTIONS, selections_table(self.selections))] if self.selections else [])

    def _second_experiment(self, extraction: float) -> str:
        by_objective: dict[str, list[float]] = {}
        for objective, seconds in self.trainings:
            by_objective.setdefault(objective, []).append(seconds)
        slowest, second = max(
            ((name, median(times)) for name, times in by_objective.items()), key=lambda item: item[1]
        )
        first, times_less = extraction + second, 1 + extraction / max(second, 0.001)
        return (
            f"the first experiment with {slowest}: {first:.1f} s, extraction included; "
            f"the second, from the cache: {second:.1f} s, {times_less:.0f} times less"
        )


def _paragraph(lines: Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def write_study(
    trained: Sequence[Trained],
    extraction: float | None,
    out: Path,
    against: tuple[str, ...] = (),
) -> Study:
    """Select settings, and write tables and plots to `out`.

    `extraction` is the number of seconds that all extractions took.
    """
    outcomes, selections = select_settings(trained)
    study = Study(
        rows=group_rows(outcomes, against),
        against=against,
        probes=probes_table(outcomes, against),
        selections=selections,
        extraction=extraction,
        trainings=[(cell.objective, result["seconds"]) for cell, result in trained],
        table=out / "results.md",
        plot=out / "results.png",
    )
    with explained(out):
        write_atomic(study.table, study.markdown().encode())
        write_atomic(out / "results.csv", csv_text(study.rows).encode())
        write_atomic(out / "results.tex", results_table(study.rows, against).latex().encode())
        for name, plot in (
            ("results", accuracy_plot(study.rows)),
            ("reliability", reliability_plot(outcomes)),
        ):
            write_atomic(out / f"{name}.png", png(plot))
            write_atomic(out / f"{name}.svg", svg(plot))
    return study
