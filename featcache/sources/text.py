"""Texts: the lines of a .txt file, or the text column of a CSV, TSV or JSONL file.

Ids are `file:row`, with rows counted from 0. Blank lines of a .txt file are counted, but are not samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featcache.errors import SampleError, SourceError
from featcache.sources._files import printable
from featcache.sources._labels import label_column_of, refuse_label_column
from featcache.sources._samples import Part, assemble
from featcache.sources._splits import split_of
from featcache.sources._table import PATH_COLUMNS, TEXT_COLUMNS, Table, is_table, split_of_record
from featcache.sources.base import Source


def match(path: Path) -> bool:
    """Return True for a .txt file, or a table without a path column."""
    if path.suffix.lower() == ".txt":
        return path.is_file()
    return is_table(path) and not any(name in Table(path).first_columns() for name in PATH_COLUMNS)


def splits(path: str, label_column: str | None = None) -> dict[str, Source]:
    """Return the splits in the split column, else one split from the file's name.

    Raise SourceError if a table has no text column.
    """
    file = Path(path)
    if not file.is_file():
        raise SourceError("there is no such file", got=path, expected="a .txt, .csv, .tsv or .jsonl file")
    if is_table(file):
        return _open_table(file, label_column)
    refuse_label_column(label_column, "a file of lines has no labels")
    rows, offsets = _line_offsets(file)
    part = Part(_ids(file, rows), [None] * len(rows), _Lines(file, offsets))
    return assemble("text", {split_of(file): part}, None, path)


@dataclass(frozen=True)
class _Lines:
    """Reads lines of a .txt file at their byte offsets."""

    path: Path
    offsets: NDArray[np.int64]

    def __call__(self, row: int) -> str:
        try:
            with self.path.open("rb") as stream:
                stream.seek(int(self.offsets[row]))
                return (
                    stream.readline()
                    .decode("utf-8-sig" if self.offsets[row] == 0 else "utf-8")
                    .rstrip("\r\n")
                )
        except UnicodeDecodeError as error:
            raise SampleError("the line is not UTF-8", got=f"byte {error.start}: {error.reason}") from None
        except OSError as error:
            raise SampleError("the file cannot be read", got=error.strerror) from None


@dataclass(frozen=True)
class _Column:
    """Reads the text column of records at their byte offsets."""

    table: Table
    columns: Sequence[str]
    text: str
    offsets: NDArray[np.int64]

    def __call__(self, row: int) -> str:
        try:
            value = self.table.at(int(self.offsets[row]), self.columns).get(self.text)
        except SourceError as error:
            raise SampleError("the row cannot be read any more", got=error.what) from None
        if not isinstance(value, str):
            raise SampleError(
                "the row holds no text", got=repr(value), expected=f"text in column `{self.text}`"
            )
        return value


def _open_table(file: Path, label_column: str | None) -> dict[str, Source]:
    """Return the splits of a CSV, TSV or JSONL file."""
    table = Table(file)
    columns = table.columns()
    text = next((name for name in TEXT_COLUMNS if name in columns), None)
    if text is None:
        raise SourceError(
            f"{file.name} has neither a text column nor a path column",
            got=f"columns {', '.join(columns)}",
            expected=f"one of {', '.join(TEXT_COLUMNS)}, or {', '.join(PATH_COLUMNS)}",
        )
    label = label_column_of(columns, label_column, file.name)
    rows: dict[str, list[tuple[int, int, object]]] = {}
    for row, (offset, record) in enumerate(table.records()):
        rows.setdefault(split_of_record(record, file), []).append(
            (row, offset, record.get(label) if label else None)
        )
    parts = {}
    for split, listed in rows.items():
        numbers, offsets, labels = zip(*listed, strict=True)
        reader = _Column(table, columns, text, np.array(offsets, np.int64))
        parts[split] = Part(_ids(file, numbers), labels, reader)
    return assemble("text", parts, None, str(file))


def _line_offsets(file: Path) -> tuple[list[int], NDArray[np.int64]]:
    """Return number and byte offset of each line that is not blank."""
    rows, offsets, offset = [], [], 0
    with file.open("rb") as stream:
        for row, line in enumerate(stream):
            if line.strip():
                rows.append(row)
                offsets.append(offset)
            offset += len(line)
    return rows, np.array(offsets, np.int64)


def _ids(file: Path, rows: Sequence[int]) -> list[str]:
    return [printable(f"{file.name}:{row}") for row in rows]
