"""A CSV, TSV or JSONL list of image files, with a path column and optional label and split columns.

A folder of such lists (`train.csv`, `test.csv`) has a split for each name. Paths and ids are relative to the
folder of the list. A missing file keeps its row, and fails when it is read.
"""

from __future__ import annotations

import os
import posixpath
from pathlib import Path
from typing import Any

from featcache.errors import SourceError
from featcache.sources._files import Files, printable
from featcache.sources._labels import usual
from featcache.sources._samples import Part, assemble
from featcache.sources._table import (
    PATH_COLUMNS,
    Table,
    label_columns,
    open_tables,
    split_of_record,
    tables,
)
from featcache.sources.base import Source


def match(path: Path) -> bool:
    """Return True for a table with a path column, or a folder of them."""
    return any(usual(Table(file).first_columns(), PATH_COLUMNS) for file in tables(path)[:1])


def splits(path: str, label_column: str | None = None) -> dict[str, Source]:
    """Return the splits in the split column, else one split from each file's name.

    Raise SourceError for a malformed list.
    """
    file = Path(path)
    found = open_tables(file)
    labels, origin = label_columns([*found], label_column)
    rows: dict[str, list[tuple[str, Any]]] = {}
    for (table, split), label in zip(found.items(), labels, strict=True):
        path_column = _path_column(table)
        for row, (_, record) in enumerate(table.records()):
            name = record.get(path_column)
            if not (isinstance(name, str) and name.strip()):
                got = f"{name!r} in row {row} of {table.path.name}"
                raise SourceError("a row names no file", got=got, expected="a path")
            listed = (name.strip(), record.get(label) if label else None)
            rows.setdefault(split_of_record(record, split), []).append(listed)
    root = file if file.is_dir() else file.parent
    parts = {split: _part(root, listed) for split, listed in rows.items()}
    return assemble("image", parts, None, path, origin)


def _path_column(table: Table) -> str:
    """Return the column with the paths; raise SourceError if there is none."""
    columns = table.columns()
    found = usual(columns, PATH_COLUMNS)
    if found is None:
        raise SourceError(
            f"{table.path.name} has no path column",
            got=f"columns {', '.join(columns)}",
            expected=f"one of {', '.join(PATH_COLUMNS)}",
        )
    return found


def _part(root: Path, listed: list[tuple[str, Any]]) -> Part:
    """Make a split from (path, label) pairs."""
    names = [name for name, _ in listed]
    return Part([_id(root, name) for name in names], [label for _, label in listed], Files(str(root), names))


def _id(root: Path, name: str) -> str:
    """Return the path of a listed file, normalised and relative to `root`."""
    relative = os.path.relpath(name, root.absolute()) if os.path.isabs(name) else name
    return printable(posixpath.normpath(Path(relative).as_posix()))
