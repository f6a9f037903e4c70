"""Compare runs: the table of a study from run folders, however they were made."""

from __future__ import annotations

import html
import importlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from featcache.errors import ConfigError, MissingExtra
from featcache.results.distinguish import name_data, name_settings
from featcache.results.results_table import csv_text, notes, numbers, results_table, terminal_text
from featcache.results.rows import CONTROLS, Outcome, Row, RowKey, group_rows
from featcache.results.run_folders import FinishedRun, Place, as_places, find_folders, natural, read_runs

_SHOWN = 3
"""Skipped folders that are named where a comparison is printed."""


@dataclass(frozen=True, repr=False)
class Comparison:
    """Runs side by side: a row for each method at each label budget on each cache."""

    rows: tuple[Row, ...]
    skipped: Mapping[str, str]
    """Folders that are no finished run or repeat one, each with the reason."""

    def markdown(self) -> str:
        """Return the table as Markdown, as `featcache run` writes it."""
        table, lines = results_table(self.rows).markdown(), notes(self.rows)
        return table + ("\n" + "\n".join(lines) + "\n" if lines else "")

    def csv(self) -> str:
        """Return the numbers of all rows as CSV: a line for each row, two columns for each difference."""
        return csv_text(self.rows)

    def latex(self) -> str:
        """Return the table as LaTeX, for the package booktabs."""
        return results_table(self.rows).latex()

    def as_dict(self) -> dict[str, Any]:
        """Return rows and skipped folders as values that JSON can hold."""
        return {"rows": [row.as_dict() for row in self.rows], "skipped": dict(self.skipped)}

    def to_pandas(self) -> Any:
        """Return a pandas DataFrame: a line for each row, and two columns for each difference.

        Accuracies and differences are in percent; `minus NAME ±` is the half-width of the 95 % interval.
        Raises MissingExtra where pandas is not installed.
        """
        try:
            pandas = importlib.import_module("pandas")
        except ImportError:
            raise MissingExtra("the package `pandas` is not installed", hint="pip install pandas") from None
        return pandas.DataFrame(numbers(self.rows))

    def __repr__(self) -> str:
        return terminal_text(self.rows) + "".join(f"{note}\n" for note in self._skipped())

    def _repr_html_(self) -> str:
        lines = [*notes(self.rows), *self._skipped()]
        return results_table(self.rows).html() + "".join(f"<p>{html.escape(line)}</p>" for line in lines)

    def _skipped(self) -> list[str]:
        return [f"Skipped: {_listed(self.skipped)}"] if self.skipped else []


def compare(runs: Place | Iterable[Place]) -> Comparison:
    """Compare the finished runs among `runs`: folders, patterns such as `runs/*`, or run objects.

    In a pattern, `**` stands for folders at any depth: `runs/**` finds the runs of all studies below `runs`.
    A row holds the runs of one cache, label budget, objective and setting, which differ in their seed only.
    The setting is what differs between the options of the runs of an objective. Rows are paired with the
    controls by seed. Options that define the task, such as `data.imbalance`, are named with the cache, as
    runs are compared only where these are equal.

    A folder that is not a finished run is skipped, and so is a copy of a run. Raises ConfigError where no
    finished run is found, or where two runs of the same configuration have different figures.
    """
    places = as_places(runs)
    found, skipped = read_runs(find_folders(places))
    if not found:
        raise ConfigError(
            "there is no finished run to compare",
            got=_listed(skipped) or f"no folder at {', '.join(map(str, places)) or 'all'}",
            expected="folders with config.json and result.json, as `featcache train` writes them",
            hint="a pattern such as `runs/**` also finds runs in folders of folders",
        )
    labelled = [
        (run, Outcome(data, run.config["objective"], run.result, setting))
        for run, data, setting in zip(found, name_data(found), name_settings(found), strict=True)
    ]
    outcomes, copies = _distinct(labelled)
    return Comparison(tuple(group_rows(_sorted(outcomes))), skipped | copies)


def _distinct(labelled: Sequence[tuple[FinishedRun, Outcome]]) -> tuple[list[Outcome], dict[str, str]]:
    """Put copies of runs aside, with the reason."""
    first: dict[tuple[RowKey, int], FinishedRun] = {}
    outcomes, copies = [], {}
    for run, outcome in labelled:
        kept = first.setdefault((RowKey.of(outcome), run.config["seed"]), run)
        if kept is run:
            outcomes.append(outcome)
        elif kept.result["test"] == run.result["test"]:
            copies[str(run.path)] = f"the same run as {kept.path}"
        else:
            raise ConfigError(
                "two runs have the same configuration and different test figures",
                got=f"{kept.path} and {run.path}",
                expected="one run for each configuration and seed",
                hint="compare only one of them",
            )
    return outcomes, copies


def _sorted(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Sort by cache (in the order they come), budget, controls first, method and seed."""
    caches: dict[str, int] = {}
    for outcome in outcomes:
        caches.setdefault(outcome.cache, len(caches))

    def key(outcome: Outcome) -> tuple[Any, ...]:
        row = RowKey.of(outcome)
        name = outcome.objective
        place = CONTROLS.index(name) if name in CONTROLS else len(CONTROLS)
        budget = (row.budget.unit != "per class", row.budget.count)
        return caches[row.cache], budget, place, name, natural(row.setting), outcome.result["seed"]

    return sorted(outcomes, key=key)


def _listed(skipped: Mapping[str, str]) -> str:
    named = "; ".join(f"{folder}: {reason}" for folder, reason in islice(skipped.items(), _SHOWN))
    more = len(skipped) - _SHOWN
    return f"{named}; and {more} more" if more > 0 else named
