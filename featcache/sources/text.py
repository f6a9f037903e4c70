"""Texts: the lines of a .txt file, or the text column of a CSV, TSV or JSONL file.

A folder of tables (`train.csv`, `test.csv`) has a split for each name. Ids are `file:row`, with rows counted
from 0. Blank lines of a .txt file are counted, but are not samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featcache import limits
from featcache.errors import SampleError, SourceError
from featcache.sources._files import printable
from featcache.sources._labels import refuse_label_column, usual
from featcache.sources._origin import Origin
from featcache.sources._samples import Part, assemble
from featcache.sources._splits import split_of
from featcache.sources._table import (
    PATH_COLUMNS,
    TEXT_COLUMNS,
    Table,
    label_columns,
    open_tables,
    split_of_record,
    tables,
)
from featcache.sources.base import Source


def match(path: Path) -> bool:
    """Return True for a .txt file, a table without a path column, or a folder of them."""
    if path.suffix.lower() == ".txt":
        return path.is_file()
    return any(usual(Table(file).first_columns(), PATH_COLUMNS) is None for file in tables(path)[:1])


def splits(path: str, label_column: str | None = None) -> dict[str, Source]:
    """Return the splits in the split column, else one split from each file's name.

    Raise SourceError if a table has no text column.
    """
    file = Path(path)
    if tables(file):
        return _open_tables(file, label_column)
    if not file.is_file():
        expected = "a .txt, .csv, .tsv or .jsonl file, or a folder of tables"
        raise SourceError("there is no such file", got=path, expected=expected)
    refuse_label_column(label_column, "a file of lines has no labels")
    rows, offsets = _line_offsets(file)
    part = Part(_ids(file, rows), [None] * len(rows), _Lines(file, offsets))
    return assemble("text", {split_of(file): part}, None, path, Origin("none"))


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
            limits.require_none(error, self.path)
            raise SampleError("the file cannot be read", got=error.strerror) from None


@dataclass(frozen=True)
class _Column:
    """Reads the text column of records at their byte offsets."""

    table: Table
    columns: Sequence[str]
    text: str

    def at(self, offset: int) -> str:
        try:
            value: object = self.table.at(offset, self.columns).get(self.text)
        except SourceError as error:
            raise SampleError("the row cannot be read any more", got=error.what) from None
        if not isinstance(value, str):
            raise SampleError(
                "the row holds no text", got=repr(value), expected=f"text in column `{self.text}`"
            )
        return value


@dataclass(frozen=True)
class _Columns:
    """Reads rows of several tables."""

    columns: Sequence[_Column]
    column_of: NDArray[np.int32]
    offsets: NDArray[np.int64]

    def __call__(self, row: int) -> str:
        return self.columns[int(self.column_of[row])].at(int(self.offsets[row]))


def _open_tables(path: Path, label_column: str | None) -> dict[str, Source]:
    """Return the splits of a CSV, TSV or JSONL file, or of a folder of them."""
    found = open_tables(path)
    labels, origin = label_columns([*found], label_column)
    columns = [_text_column(table) for table in found]
    rows: dict[str, list[tuple[str, int, int, object]]] = {}
    for number, ((table, split), label) in enumerate(zip(found.items(), labels, strict=True)):
        for row, (offset, record) in enumerate(table.records()):
            key = printable(f"{table.path.name}:{row}")
            listed = (key, number, offset, record.get(label) if label else None)
            rows.setdefault(split_of_record(record, split), []).append(listed)
    parts = {}
    for split, every in rows.items():
        ids, numbers, offsets, values = zip(*every, strict=True)
        reader = _Columns(columns, np.array(numbers, np.int32), np.array(offsets, np.int64))
        parts[split] = Part(ids, values, reader)
    return assemble("text", parts, None, str(path), origin)


def _text_column(table: Table) -> _Column:
    """Return the column with the texts; raise SourceError if there is none."""
    columns = table.columns()
    text = usual(columns, TEXT_COLUMNS)
    if text is None:
        raise SourceError(
            f"{table.path.name} has neither a text column nor a path column",
            got=f"columns {', '.join(columns)}",
            expected=f"one of {', '.join(TEXT_COLUMNS)}, or {', '.join(PATH_COLUMNS)}",
        )
    return _Column(table, columns, text)


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
