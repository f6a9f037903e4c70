"""Tables of Arrow: Parquet with a vector column, and folders that Hugging Face `datasets` saved to disk."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from featcache.errors import SourceError
from featcache.exchange.columns import Column, Handle, Opened, Shape
from featcache.exchange.formats import _lists
from featcache.outside import json_of

SUFFIXES = (".parquet",)
_BATCH = 1024

Batches = Callable[[int], Iterator[Any]]
"""Yields arrays of a column, beginning with the row group or record batch that holds a row."""


def is_saved(path: Path) -> bool:
    """Return True for a folder that `datasets` saved: a `DatasetDict` or a `Dataset`."""
    return path.is_dir() and any((path / name).is_file() for name in ("dataset_dict.json", "state.json"))


def saved_files(path: Path) -> dict[Path, str | None]:
    """Return the Arrow files of a saved folder in order, and the split of each; None without splits.

    Raise SourceError if one of them is missing.
    """
    if (path / "dataset_dict.json").is_file():
        names = _json(path / "dataset_dict.json")["splits"]
        return {file: name for name in names for file in saved_files(path / name)}
    state = _json(path / "state.json")
    files = [path / entry["filename"] for entry in state.get("_data_files", [])]
    missing = [file.name for file in files if not file.is_file()]
    if missing or not files:
        raise SourceError(f"{path} is not complete", got=f"missing {', '.join(missing) or 'Arrow files'}")
    return dict.fromkeys(files)


def open_file(path: Path, name: str) -> Opened:
    """Return the columns of a Parquet file or of an Arrow stream; raise SourceError if it cannot be read."""
    return _parquet(path, name) if path.suffix == ".parquet" else _stream(path, name)


def _parquet(path: Path, name: str) -> Opened:
    import pyarrow.parquet as parquet

    def make() -> Any:
        with _readable(name):
            # Whole row groups are not read ahead: one may hold a million rows.
            return parquet.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20)

    with make() as file:
        schema, metadata = file.schema_arrow, file.metadata
        counts = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    starts = np.cumsum([0, *counts])

    def batches(key: str) -> Batches:
        def begin(row: int) -> Iterator[Any]:
            group = int(np.searchsorted(starts, row, side="right")) - 1
            with _readable(name), make() as file:
                groups = list(range(group, len(counts)))
                skip = row - int(starts[group])
                for batch in file.iter_batches(_BATCH, row_groups=groups, columns=[key], use_threads=False):
                    yield batch.column(0)[min(skip, len(batch)) :]
                    skip = max(0, skip - len(batch))

        return begin

    return _opened(name, schema, int(starts[-1]), batches)


def _stream(path: Path, name: str) -> Opened:
    import pyarrow

    def make() -> Any:
        with _readable(name), pyarrow.memory_map(str(path)) as source:
            # A view of the mapped file, not a copy.
            return pyarrow.ipc.open_stream(source).read_all()

    handle = Handle(make)
    schema, rows = handle().schema, handle().num_rows

    def batches(key: str) -> Batches:
        def begin(row: int) -> Iterator[Any]:
            for start in range(row, rows, _BATCH):
                part = handle(1 << 21).column(key).slice(start, _BATCH)
                yield from part.chunks

        return begin

    return _opened(name, schema, rows, batches)


def _opened(name: str, schema: Any, rows: int, batches: Callable[[str], Batches]) -> Opened:
    columns = {
        field.name: _column(field.type, rows, batches(field.name), f"`{field.name}` in {name}")
        for field in schema
    }
    metadata = schema.metadata or {}
    described = metadata.get(b"featcache")
    return Opened(
        name,
        columns,
        _class_names(metadata),
        table=True,
        described=None if described is None else json.loads(described),
    )


def _class_names(metadata: dict[bytes, bytes]) -> tuple[str, ...] | None:
    """Return the names of the only ClassLabel in the metadata of `datasets`."""
    if b"class_names" in metadata:
        return tuple(json.loads(metadata[b"class_names"]))
    try:
        features = json_of(metadata.get(b"huggingface", b"{}"))["info"]["features"].values()
        named = [feature["names"] for feature in features if "names" in feature]
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return tuple(named[0]) if len(named) == 1 else None


def _column(arrow: Any, rows: int, batches: Batches, where: str) -> Column:
    depth, kind = _lists.kind_of(arrow)
    shape, longest = _fixed(arrow), 0
    if depth > 2 or (depth and kind == "string") or (depth == 2 and kind == "int" and None in shape):
        kind, shape = str(arrow), ()
    elif None in shape:
        shape, longest = _measured(batches, depth)
    cursor = _Cursor(batches)

    def read(start: int, stop: int) -> Any:
        parts = []
        for at, array in cursor.take(start, stop):
            if not depth:
                parts.append(array.to_pylist())
                continue
            values, levels = _lists.to_numpy(array, at, where)
            parts.append(_lists.shaped(values, levels, shape, at, where))
        if not depth or None in shape:
            return [value for part in parts for value in part]
        return np.concatenate(parts) if parts else np.empty((0, *shape), kind)

    return Column(where, rows, shape, kind, read, longest)


def _fixed(arrow: Any) -> Shape:
    """Return the sizes of nested lists, None for those that may differ."""
    sizes: list[int | None] = []
    arrow = _lists.storage(arrow)
    while _lists.is_list(arrow):
        sizes.append(getattr(arrow, "list_size", None))
        arrow = _lists.storage(arrow.value_type)
    return tuple(sizes)


def _measured(batches: Batches, depth: int) -> tuple[Shape, int]:
    """Return the shape of a row of lists, and the largest number of tokens.

    The width is that of the first row; another one is an error when its row is read. The lengths of tokens
    are those of all rows.
    """
    seen: set[int] = set()
    width = 0
    for array in batches(0):
        array = _lists.plain(array)
        if not len(array):
            continue
        if depth == 1:
            return (max(int(_lists.lengths(array)[0]), 0),), 0
        seen.update(np.unique(_lists.lengths(array)).tolist())
        inner = _lists.lengths(array.flatten())
        width = width or (int(inner[0]) if len(inner) else 0)
    tokens = max(seen, default=0)
    return (tokens if len(seen) == 1 else None, width) if depth == 2 else (0,), tokens


class _Cursor:
    """Reads a column front to back; going back begins anew."""

    def __init__(self, batches: Batches) -> None:
        self._batches = batches
        self._arrays: Iterator[Any] = iter(())
        self._next = -1
        self._rest: Any = None

    def take(self, start: int, stop: int) -> Iterator[tuple[int, Any]]:
        """Yield (first row, array) for the rows [start, stop)."""
        if start != self._next:
            self._arrays, self._rest, self._next = self._batches(start), None, start
        while self._next < stop:
            array = self._rest if self._rest is not None else next(self._arrays)
            count = min(len(array), stop - self._next)
            self._rest = array[count:] if count < len(array) else None
            at, self._next = self._next, self._next + count
            if count:
                yield at, array[:count]


def _json(path: Path) -> Any:
    try:
        return json_of(path.read_text())
    except (OSError, ValueError) as error:
        raise SourceError(f"{path} cannot be read", got=error) from None


@contextmanager
def _readable(name: str) -> Iterator[None]:
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError) as error:
        raise SourceError(f"{name} cannot be read as a table of Arrow", got=error) from None
