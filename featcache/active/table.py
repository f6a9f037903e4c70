"""The file of suggestions: CSV with an empty column for the label. Filled in, it is a file of `labels`."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from featcache.active.curve import Forecast
from featcache.errors import ConfigError, option
from featcache.files import explained, write_atomic
from featcache.shown import cell, harmless

COLUMNS = ("id", "label", "split", "prediction", "confidence", "second", "why", "chosen_by", "text")


@dataclass(frozen=True)
class Suggestion:
    """One sample to label."""

    id: str
    split: str
    prediction: str | None
    """The class that the model would give it; None without a model."""
    confidence: float | None
    second: str | None
    """The second class."""
    why: str
    """What a label of it would be good for."""
    chosen_by: str
    """`cover` or `cover uncertain`, and empty at random: a sample that was chosen is no fair test."""
    text: str | None = None
    """What is to be labelled, if it is a text and its source is at hand."""

    def line(self) -> list[str]:
        """Return the line of the table, with an empty label."""
        confidence = "" if self.confidence is None else f"{self.confidence:.4f}"
        known = (self.prediction or "", confidence, self.second or "", self.why, self.chosen_by)
        return [cell(text) for text in (self.id, "", self.split, *known, self.text or "")]


@dataclass(frozen=True)
class Suggestions:
    """Samples to label next, the most useful first, and what their labels are expected to bring."""

    samples: tuple[Suggestion, ...]
    forecast: Forecast
    notes: tuple[str, ...] = ()
    """What was left out, in sentences."""

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[Suggestion]:
        return iter(self.samples)

    @property
    def ids(self) -> list[str]:
        """The ids of the samples."""
        return [sample.id for sample in self.samples]

    def __str__(self) -> str:
        return "\n".join([*_aligned(self.samples), *self.notes, self.forecast.text()])


def refuse_foreign(out: Path) -> None:
    """Raise ConfigError if `out` exists and is not an earlier table, or if labels are filled in there."""
    with explained(out):
        if not out.exists():
            return
        lines = _lines(out) if out.is_file() else None
    if lines is None or (lines and tuple(lines[0]) not in (COLUMNS, COLUMNS[:-1])):
        raise ConfigError(
            f"{out} exists and is not a table of suggestions; it is left as it is",
            got="a folder" if lines is None else f"a file that begins with {','.join(lines[0])[:60]!r}",
            expected="an earlier table without labels, or nothing",
            hint=f"choose another {option('out')}, such as next.csv",
        )
    filled = sum(bool(line[1].strip()) for line in lines[1:] if len(line) > 1)
    if filled:
        raise ConfigError(
            f"{out} has labels that were filled in; it is left as it is",
            got=f"{filled} labels",
            expected="an earlier table without labels, or nothing",
            hint=f"give it as {option('labels', str(out))}, and choose another {option('out')}",
        )


def write(out: Path, samples: Sequence[Suggestion]) -> None:
    """Write the table atomically."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([COLUMNS, *(sample.line() for sample in samples)])
    with explained(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(out, text.getvalue().encode())


def _lines(path: Path) -> list[list[str]]:
    # utf-8-sig, since a spreadsheet may have saved it with a byte order mark; it may prefer semicolons.
    text = path.read_bytes().decode("utf-8-sig", errors="replace")
    delimiter = ";" if text.startswith(";".join(COLUMNS[:2])) else ","
    try:
        return list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
    except csv.Error:
        return [[text[:60]]]


def _aligned(samples: Sequence[Suggestion]) -> list[str]:
    """Return lines of aligned columns, for a person."""
    lines: list[tuple[str, ...]] = [("id", "prediction", "confidence", "why", "text")]
    for sample in samples:
        share = "" if sample.confidence is None else f"{100 * sample.confidence:.1f} %"
        cells = (sample.id, sample.prediction or "", share, sample.why, _short(sample.text))
        lines.append(tuple(harmless(text, lines=False) for text in cells))
    kept = [column for column in zip(*lines, strict=True) if any(column[1:])]
    widths = [max(map(len, column)) for column in kept]
    return ["  ".join(map(str.ljust, line, widths)).rstrip() for line in zip(*kept, strict=True)]


def _short(text: str | None, most: int = 60) -> str:
    """Return the beginning of a text."""
    return "" if text is None else text if len(text) <= most else f"{text[: most - 3]}..."
