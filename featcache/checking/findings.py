"""The findings of a check: in lines for a person, as plain values, and as a table to correct."""

from __future__ import annotations

import csv
import importlib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from featcache.checking.samples import Sample
from featcache.errors import MissingExtra
from featcache.shown import cell

COLUMNS = ("split", "id", "label", "suggested", "doubt")
SHOWN = 10
"""Most findings of a kind that `describe` lists."""


@dataclass(frozen=True)
class Doubtful:
    """A label that models which did not see it contradict."""

    split: str
    id: str
    label: str
    """The class it has."""
    suggested: str
    """The class that the models prefer."""
    doubt: float
    """The probability of `suggested` among the two classes, from 0 to 1."""


@dataclass(frozen=True)
class Group:
    """Samples that are the same or nearly so."""

    samples: tuple[Sample, ...]
    same: bool
    """True if all of their embeddings are equal up to rounding."""
    cosine: float
    """The smallest cosine of the pairs that link them, after centring."""

    @property
    def labels(self) -> set[str]:
        """The names of their classes."""
        return {sample.label for sample in self.samples if sample.label is not None}

    @property
    def splits(self) -> set[str]:
        """The names of their splits."""
        return {sample.split for sample in self.samples}


@dataclass(frozen=True)
class Failed:
    """A row that failed in extraction."""

    split: str
    id: str
    reason: str


@dataclass(frozen=True, repr=False)
class Findings:
    """The findings of `featcache check`."""

    samples: int
    """Readable samples that were compared; 0 if there was no cache to compare."""
    labelled: int
    judged: int
    """Labels that were judged by models which did not see them."""
    doubtful: tuple[Doubtful, ...]
    """The most doubtful first."""
    groups: tuple[Group, ...]
    """The same samples before near ones."""
    failed: tuple[Failed, ...]
    few: Mapping[str, int]
    """Classes with fewer than two labels, and how many they have."""
    alike: tuple[tuple[str, ...], ...]
    """Class names that differ only in case, spaces, punctuation or their Unicode form."""
    notes: tuple[str, ...]
    """What could not be checked, and why."""

    @property
    def contradictory(self) -> tuple[Group, ...]:
        """Groups whose samples have different labels."""
        return tuple(group for group in self.groups if len(group.labels) > 1)

    @property
    def across(self) -> tuple[Group, ...]:
        """Groups with samples of more than one split: leaks, if one of them is the test split."""
        return tuple(group for group in self.groups if len(group.splits) > 1)

    def __repr__(self) -> str:
        return f"<Findings: {', '.join(self._counts())}>"

    def _counts(self) -> list[str]:
        same = sum(group.same for group in self.groups)
        return [
            f"{len(self.doubtful)} of {self.judged} judged labels doubtful",
            f"{len(self.contradictory)} groups of duplicates with different labels",
            f"{len(self.across)} groups of duplicates in more than one split",
            f"{len(self.groups)} groups of duplicates in all ({same} the same, the others nearly so)",
            f"{len(self.failed)} rows failed",
            f"{len(self.few)} classes with fewer than two labels",
            f"{len(self.alike)} groups of class names that are almost the same",
        ]

    def describe(self, shown: int = SHOWN) -> str:
        """Count the findings, then list the first `shown` of each kind."""
        lines = [
            f"{self.samples} samples, {self.labelled} labelled",
            *(f"  {line}" for line in self._counts()),
        ]
        lines += [f"note: {note}" for note in self.notes]
        other = [group for group in self.groups if group not in (*self.contradictory, *self.across)]
        for title, found in (
            ("duplicates with different labels", [_line(group) for group in self.contradictory]),
            ("duplicates in more than one split", [_line(group) for group in self.across]),
            ("doubtful labels, the most doubtful first", [_doubt(one) for one in self.doubtful]),
            ("other duplicates", [_line(group) for group in other]),
            ("failed rows", [f"{row.split}/{row.id}: {row.reason}" for row in self.failed]),
            ("classes with fewer than two labels", [f"{name}: {count}" for name, count in self.few.items()]),
            ("class names that are almost the same", [", ".join(map(repr, names)) for names in self.alike]),
        ):
            lines += _listed(title, found, shown)
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """Return all findings as plain values, for JSON."""
        return {
            "samples": self.samples,
            "labelled": self.labelled,
            "judged": self.judged,
            "doubtful": [vars(one) for one in self.doubtful],
            "duplicates": [
                {
                    "same": group.same,
                    "cosine": group.cosine,
                    "contradictory": len(group.labels) > 1,
                    "samples": [sample._asdict() for sample in group.samples],
                }
                for group in self.groups
            ],
            "failed": [vars(row) for row in self.failed],
            "few_labels": dict(self.few),
            "similar_names": [list(names) for names in self.alike],
            "notes": list(self.notes),
        }

    def to_pandas(self) -> Any:
        """Return the doubtful labels as a pandas DataFrame; raises MissingExtra without pandas."""
        try:
            pandas = importlib.import_module("pandas")
        except ImportError:
            raise MissingExtra("the package `pandas` is not installed", hint="pip install pandas") from None
        return pandas.DataFrame([vars(one) for one in self.doubtful], columns=COLUMNS)

    def table(self) -> str:
        """Return the doubtful labels as CSV, for a person to correct the column `label`."""
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        for one in self.doubtful:
            names = (one.split, one.id, one.label, one.suggested)
            writer.writerow((*map(cell, names), f"{one.doubt:.4f}"))
        return text.getvalue()


def _listed(title: str, found: Sequence[str], shown: int) -> Iterator[str]:
    if found:
        yield f"\n{title}:"
        yield from (f"  {line}" for line in found[:shown])
        if len(found) > shown:
            yield f"  ... and {len(found) - shown} more"


def _line(group: Group) -> str:
    shown = ", ".join(
        f"{sample.split}/{sample.id}" + ("" if sample.label is None else f" ({sample.label})")
        for sample in group.samples[:4]
    )
    more = f" and {len(group.samples) - 4} more" if len(group.samples) > 4 else ""
    return f"{'same' if group.same else f'near ({group.cosine:.3f})'}: {shown}{more}"


def _doubt(one: Doubtful) -> str:
    return f"{one.split}/{one.id}: {one.label}, rather {one.suggested} ({one.doubt:.3f})"
