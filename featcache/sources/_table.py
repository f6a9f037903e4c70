"""Read CSV, TSV and JSON Lines files: all records in order, or one by its byte offset.

The columns of a .csv may be separated by commas, semicolons, tabs or bars: the file itself decides.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from featcache.errors import SourceError
from featcache.outside import json_of
from featcache.sources._labels import LABEL_COLUMNS, label_column_of, likely_column, usual
from featcache.sources._origin import Origin
from featcache.sources._paths import matches
from featcache.sources._scan import image_files
from featcache.sources._splits import group_files, split_name, split_of

PATH_COLUMNS = (
    "path",
    "file",
    "filename",
    "file_name",
    "filepath",
    "file_path",
    "image",
    "img",
    "image_path",
)
TEXT_COLUMNS = ("text", "sentence", "content", "document", "review", "question", "utterance", "query")
SPLIT_COLUMNS = ("split", "subset")
_SUFFIXES = (".csv", ".tsv", ".jsonl")
_DELIMITERS = ",;\t|"
_SNIFFED_LINES = 200
_SHARDS = (".parquet", ".tar")
_BOM = b"\xef\xbb\xbf"

Record = Mapping[str, Any]


def is_table(path: Path) -> bool:
    """Return True for a CSV, TSV or JSONL file, by its suffix."""
    return path.suffix.lower() in _SUFFIXES and path.is_file()


def tables(path: Path) -> list[Path]:
    """Return the tables that `path` stands for: itself, or those in a folder; empty if there are none.

    A folder that holds images or shards is theirs, whatever tables lie beside them.
    """
    if not path.is_dir():
        return [path] if is_table(path) else []
    found = sorted(file for file in path.iterdir() if is_table(file) and not file.name.startswith("."))
    others = found and (any(True for _ in image_files(path)) or any(matches(path, s) for s in _SHARDS))
    return [] if others else found


def open_tables(path: Path) -> dict[Table, str]:
    """Return the tables that `path` stands for, each with the split of its name.

    Raise SourceError if there are none.
    """
    files = tables(path)
    if path.is_dir() and files:
        groups = group_files(path, files)
        return {Table(file): split for split, group in groups.items() for file in group}
    return {Table(path): split_of(path)}


def label_columns(found: Sequence[Table], asked: str | None) -> tuple[list[str | None], Origin]:
    """Return the label column of each table, and where labels come from.

    Raise SourceError if `asked` is in none of the tables.
    """
    every = [table.columns() for table in found]
    known = tuple(dict.fromkeys(name for columns in every for name in columns))
    label_column_of(known, asked, " and ".join(table.path.name for table in found[:3]))
    chosen = [
        usual(columns, LABEL_COLUMNS) if asked is None else asked if asked in columns else None
        for columns in every
    ]
    if name := next(filter(None, chosen), None):
        return chosen, Origin("column", name, known)
    few = [record for _, record in islice(found[0].records(), _SNIFFED_LINES)]
    taken = [usual(known, names) for names in (PATH_COLUMNS, TEXT_COLUMNS, SPLIT_COLUMNS)]
    return chosen, Origin("column", None, known, likely_column(known, taken, few))


def split_of_record(record: Record, default: str) -> str:
    """Return the split in a record's split column, else `default`."""
    values = ("" if (value := record.get(name)) is None else str(value).strip() for name in SPLIT_COLUMNS)
    named = next(filter(None, values), None)
    return default if named is None else split_name(named) or named


@dataclass(frozen=True)
class Table:
    """A file of records; picklable, as each read opens the file again."""

    path: Path

    def records(self) -> Iterator[tuple[int, Record]]:
        """Yield byte offset and values by column of each record.

        Raise SourceError with the number of a malformed line.
        """
        with self._open() as stream:
            if self._delimiter is None:
                yield from self._json(_Lines(stream, self.path))
            else:
                lines = _Lines(stream, self.path)
                header = self._header(lines)
                yield from self._csv(lines, header)

    def at(self, offset: int, columns: Sequence[str]) -> Record:
        """Return the record at an `offset` from `records`; `columns` is the CSV header, in order."""
        with self._open() as stream:
            stream.seek(offset)
            lines = _Lines(stream, self.path)
            found = self._json(lines) if self._delimiter is None else self._csv(lines, columns)
            for _, record in found:
                return record
        raise SourceError("a record is missing", got=f"{self.path} ends before byte {offset}")

    def columns(self) -> tuple[str, ...]:
        """Return the CSV header, or all keys of all JSON records."""
        if self._delimiter is None:
            return tuple(dict.fromkeys(key for _, record in self.records() for key in record))
        with self._open() as stream:
            return self._header(_Lines(stream, self.path))

    def first_columns(self) -> tuple[str, ...]:
        """Return the columns of the first record, without reading the whole file."""
        if self._delimiter is None:
            return next((tuple(record) for _, record in self.records()), ())
        return self.columns()

    @functools.cached_property
    def _delimiter(self) -> str | None:
        """The character between columns; None for JSONL."""
        suffix = self.path.suffix.lower()
        if suffix != ".csv":
            return "\t" if suffix == ".tsv" else None
        with self._open() as stream:
            return _sniffed(list(islice(_Lines(stream, self.path), _SNIFFED_LINES)), self.path)

    def _open(self) -> BinaryIO:
        try:
            return self.path.open("rb")
        except OSError as error:
            raise SourceError("the file cannot be opened", got=f"{self.path}: {error.strerror}") from None

    def _header(self, lines: _Lines) -> tuple[str, ...]:
        """Read the CSV header; raise SourceError if it is empty or has a name twice."""
        try:
            first = next(csv.reader(lines, delimiter=self._delimiter or ","), [])
        except csv.Error as error:
            raise lines.malformed(str(error), "a header of quoted CSV in UTF-8") from None
        header = tuple(name.strip() for name in first)
        if not header:
            raise SourceError(
                "the file is empty", got=str(self.path), expected="a header and at least one row"
            )
        if len(named := [name for name in header if name]) > len(set(named)):
            raise SourceError("a column name occurs twice", got=f"{', '.join(header)} in {self.path}")
        return header

    def _csv(self, lines: _Lines, header: Sequence[str]) -> Iterator[tuple[int, Record]]:
        """Yield offset and record of each CSV row."""
        reader = csv.reader(lines, delimiter=self._delimiter or ",", strict=True)
        while True:
            offset = lines.offset
            try:
                values = next(reader, None)
            except csv.Error as error:
                raise lines.malformed(
                    str(error), "quoted CSV in UTF-8; JSONL takes what CSV cannot"
                ) from None
            if values is None:
                return
            if values and len(values) != len(header):
                raise lines.malformed(f"{len(values)} values", f"{len(header)}: {', '.join(header)}")
            if values:
                yield offset, dict(zip(header, values, strict=True))

    def _json(self, lines: _Lines) -> Iterator[tuple[int, Record]]:
        """Yield offset and record of each line of JSON."""
        while True:
            offset = lines.offset
            line = next(lines, None)
            if line is None:
                return
            if not line.strip():
                continue
            try:
                record = json_of(line)
            except ValueError as error:
                raise lines.malformed(str(error), "one JSON object on each line") from None
            if not isinstance(record, dict):
                raise lines.malformed(type(record).__name__, "one JSON object on each line")
            yield offset, record


def _sniffed(lines: Sequence[str], path: Path) -> str:
    """Return the delimiter by which all lines have as many values as the header.

    Raise SourceError if several would do.
    """
    parsed = {mark: _rows(lines, mark) for mark in _DELIMITERS}
    if len(lines) == _SNIFFED_LINES:
        parsed = {mark: rows[:-1] for mark, rows in parsed.items()}  # the last one may be cut
    able = [mark for mark, rows in parsed.items() if rows and len(rows[0]) > 1]
    even = [mark for mark in able if {len(row) for row in parsed[mark]} == {len(parsed[mark][0])}]
    columns = (*PATH_COLUMNS, *TEXT_COLUMNS, *LABEL_COLUMNS, *SPLIT_COLUMNS)
    known = [mark for mark in even if usual([name.strip() for name in parsed[mark][0]], columns)]
    if len(even) > 1 and len(known) != 1:
        raise SourceError(
            f"the columns of {path.name} can be separated in several ways",
            got=f"{' or '.join(map(repr, even))}, in {lines[0].strip()[:80]!r}",
            expected="one character that separates the columns",
            hint="put names that hold another one of these characters in double quotes",
        )
    return next(iter([*known, *even, *able]), ",")


def _rows(lines: Sequence[str], delimiter: str) -> list[list[str]]:
    """Return the rows that are not blank; none where the lines are no CSV."""
    try:
        return [row for row in csv.reader(lines, delimiter=delimiter) if row]
    except csv.Error:
        return []


class _Lines:
    """Text lines of a byte stream, with the current offset: `csv` may read several lines for one record."""

    def __init__(self, stream: BinaryIO, path: Path) -> None:
        self._stream, self._path = stream, path
        self.offset, self._number = stream.tell(), 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._stream.readline()
        if not line:
            raise StopIteration
        start, self.offset = self.offset, self.offset + len(line)
        self._number += 1
        try:
            return (line.removeprefix(_BOM) if start == 0 else line).decode()
        except UnicodeDecodeError:
            raise self.malformed("bytes that are not UTF-8", "UTF-8 text") from None

    def malformed(self, got: str, expected: str) -> SourceError:
        """Return the error for the line read last."""
        return SourceError(
            f"line {self._number} of {self._path.name} is malformed", got=got, expected=expected
        )
