"""A CSV, TSV or JSONL list of image files, with a path column and optional label and split columns.

Paths and ids are relative to the folder of the list. A missing file keeps its row, and fails when it is read.
"""

from __future__ import annotations

import os
import posixpath
from pathlib import Path
from typing import Any

from featcache.errors import SourceError
from featcache.sources._files import Files, printable
from featcache.sources._labels import label_column_of
from featcache.sources._samples import Part, assemble
from featcache.sources._table import PATH_COLUMNS, Table, is_table, split_of_record
from featcache.sources.base import Source


def match(path: Path) -> bool:
    """Return True for a table with a path column."""
    return is_table(path) and any(name in Table(path).first_columns() for name in PATH_COLUMNS)


def splits(path: str, label_column: str | None = None) -> dict[str, Source]:
    """Return the splits in the split column, else one split from the file's name.

    Raise SourceError for a malformed list.
    """
    file = Path(path)
    table = Table(file)
    columns = table.columns()
    path_column = next((name for name in PATH_COLUMNS if name in columns), None)
    if path_column is None:
        raise SourceError(
            f"{file.name} has no path column",
            got=f"columns {', '.join(columns)}",
            expected=f"one of {', '.join(PATH_COLUMNS)}",
        )
    label = label_column_of(columns, label_column, file.name)
    rows: dict[str, list[tuple[str, Any]]] = {}
    for row, (_, record) in enumerate(table.records()):
        name = record.get(path_column)
        if not (isinstance(name, str) and name.strip()):
            raise SourceError(
                "a row names no file", got=f"{name!r} in row {row} of {file.name}", expected="a path"
            )
        rows.setdefault(split_of_record(record, file), []).append(
            (name.strip(), record.get(label) if label else None)
        )
    parts = {split: _part(file.parent, listed) for split, listed in rows.items()}
    return assemble("image", parts, None, path)


def _part(root: Path, listed: list[tuple[str, Any]]) -> Part:
    """Make a split from (path, label) pairs."""
    names = [name for name, _ in listed]
    return Part([_id(root, name) for name in names], [label for _, label in listed], Files(str(root), names))


def _id(root: Path, name: str) -> str:
    """Return the path of a listed file, normalised and relative to `root`."""
    relative = os.path.relpath(name, root.absolute()) if os.path.isabs(name) else name
    return printable(posixpath.normpath(Path(relative).as_posix()))
