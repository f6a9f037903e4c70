"""Write columns in a format, a run of rows at a time: HDF5, NumPy, Parquet, safetensors."""

from __future__ import annotations

import io
import json
import math
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from featcache.cache.codec import to_storage
from featcache.errors import FileError, option
from featcache.exchange.columns import Column, Columns
from featcache.exchange.described import FILE, Description

Tables = Mapping[str, Columns]
"""Columns by split, and those of the class texts."""
Done = Callable[[int], object]
_CODES = {
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "bool": "BOOL",
    "int64": "I64",
    "uint8": "U8",
}


def write_h5(path: Path, tables: Tables, described: Description, done: Done) -> None:
    """Write one HDF5 file with a group for each split; bfloat16 is written as float32."""
    import h5py

    _require_no_nul(tables, described, "h5")
    with _KeepsError(path) as kept, h5py.File(kept, "w") as file:
        file.create_dataset("featcache", data=described.text())
        if described.class_names:
            file.create_dataset("class_names", data=list(described.class_names), dtype=h5py.string_dtype())
        for table, columns in tables.items():
            group = file.create_group(table)
            for key, column in columns.items():
                dtype = h5py.string_dtype() if column.kind == "string" else _dtype(column)
                dataset = group.create_dataset(key, (column.rows, *column.shape), dtype)
                for start, stop in column.pieces():
                    dataset[start:stop] = column.read(start, stop)
                    kept.raise_first()
                    done(stop - start)


class _KeepsError(io.FileIO):
    """A new file that keeps its first OSError, and raises it as it closes.

    HDF5 writes as late as while it closes, where an error would crash it. So it is told of none. It reads
    back what it wrote, and crashes on other bytes, so what could not be written is kept in memory for it.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "w+")
        self._first: OSError | None = None
        self._unwritten: list[tuple[int, bytes]] = []

    def __exit__(self, *raised: object) -> None:
        self.close()
        self.raise_first()

    def raise_first(self) -> None:
        """Raise the error, if there was one."""
        if self._first is not None:
            raise self._first

    def write(self, data: Any, /) -> int:
        start, view = self.tell(), memoryview(data).cast("B")
        self._keep(lambda: self._write_all(view))
        if self._first is not None:
            self._unwritten.append((start, bytes(view)))
            self.seek(start + len(view))
        return len(view)

    def readinto(self, buffer: Any, /) -> int:
        start, view = self.tell(), memoryview(buffer).cast("B")
        count = super().readinto(view) or 0
        if self._first is None:
            return count
        view[count:] = bytes(len(view) - count)
        for at, data in self._unwritten:
            low, high = max(start, at), min(start + len(view), at + len(data))
            if low < high:
                view[low - start : high - start] = data[low - at : high - at]
        return len(view)

    def truncate(self, size: int | None = None, /) -> int:
        self._keep(lambda: super(_KeepsError, self).truncate(size))
        return self.tell() if size is None else size

    def close(self) -> None:
        self._keep(super().close, always=True)

    def _write_all(self, view: memoryview) -> None:
        while view:
            view = view[super().write(view) :]

    def _keep(self, change: Callable[[], object], always: bool = False) -> None:
        if always or self._first is None:
            try:
                change()
            except OSError as error:
                self._first = self._first or error


def write_npy(path: Path, tables: Tables, described: Description, done: Done) -> None:
    """Write a folder with a folder for each split and a `.npy` file for each array; bfloat16 as float32."""
    _require_no_nul(tables, described, "npy")
    names = []
    for table, columns in tables.items():
        (path / table).mkdir(parents=True)
        for key, column in columns.items():
            names.append(f"{table}/{key}.npy")
            with (path / names[-1]).open("wb") as file:
                dtype = _text_dtype(column) if column.kind == "string" else _dtype(column)
                head = {"descr": dtype.str, "fortran_order": False, "shape": (column.rows, *column.shape)}
                np.lib.format.write_array_header_1_0(file, head)
                for start, stop in column.pieces():
                    file.write(np.ascontiguousarray(np.asarray(column.read(start, stop), dtype)).data)
                    done(stop - start)
    _describe(path, described, names)


def write_parquet(path: Path, tables: Tables, described: Description, done: Done) -> None:
    """Write a folder with a Parquet file for each split: vectors as fixed-size lists, labels as names.

    bfloat16 is written as float32.
    """
    import pyarrow
    import pyarrow.parquet as parquet

    path.mkdir(parents=True)
    metadata = {"class_names": json.dumps(described.class_names)}
    for table, columns in tables.items():
        types = {key: _arrow_type(key, column) for key, column in columns.items()}
        schema = pyarrow.schema(list(types.items()), metadata)
        step = min(next(column.pieces(), (0, 1))[1] for column in columns.values())
        rows = next(iter(columns.values())).rows
        with parquet.ParquetWriter(
            path / f"{table}.parquet", schema, compression="none", use_dictionary=False
        ) as out:
            for start in range(0, rows, step):
                stop = min(start + step, rows)
                arrays = [
                    _arrow(key, column.read(start, stop), types[key], described.class_names)
                    for key, column in columns.items()
                ]
                out.write_table(pyarrow.Table.from_arrays(arrays, schema=schema))
                done((stop - start) * len(columns))
    _describe(path, described, [f"{table}.parquet" for table in tables])


def write_safetensors(path: Path, tables: Tables, described: Description, done: Done) -> None:
    """Write one safetensors file with tensors `SPLIT/ARRAY`; ids are JSON in the bytes of `SPLIT/ids_json`.

    The library itself would need all tensors in memory.
    """
    texts = {"featcache": described.text(), "class_names": json.dumps(described.class_names)}
    head: dict[str, Any] = {"__metadata__": texts}
    columns = {f"{table}/{key}": column for table, own in tables.items() for key, column in own.items()}
    strings = {
        key: json.dumps(column.values()).encode()
        for key, column in columns.items()
        if column.kind == "string"
    }
    at = 0
    for key, column in columns.items():
        bits = column.kind == "bfloat16"
        if key in strings:
            code, shape, size = "U8", [len(strings[key])], len(strings[key])
        else:
            shape = [column.rows, *(size or 0 for size in column.shape)]
            code = _CODES["bfloat16" if bits else _dtype(column).name]
            size = math.prod(shape) * (2 if bits else _dtype(column).itemsize)
        name = f"{key}_json" if key in strings else key
        head[name] = {"dtype": code, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for key, column in columns.items():
            if key in strings:
                file.write(strings[key])
                done(column.rows)
                continue
            for start, stop in column.pieces():
                file.write(_bits(column, column.read(start, stop)).data)
                done(stop - start)


def _bits(column: Column, values: Any) -> Any:
    if column.kind == "bfloat16":
        return to_storage(values, "bfloat16")
    return np.ascontiguousarray(values, _dtype(column))


WRITERS: Mapping[str, Callable[[Path, Tables, Description, Done], None]] = {
    "h5": write_h5,
    "npy": write_npy,
    "parquet": write_parquet,
    "safetensors": write_safetensors,
}


def _dtype(column: Column) -> np.dtype[Any]:
    """Return the little-endian type of numbers as they are read."""
    found: np.dtype[Any] = np.asarray(column.read(0, 0)).dtype
    return found.newbyteorder("<")


def _text_dtype(column: Column) -> np.dtype[Any]:
    return np.dtype(f"<U{max([1, *(len(str(value)) for value in column.values())])}")


def _arrow_type(key: str, column: Column) -> Any:
    import pyarrow

    if column.kind == "string" or key == "labels":
        return pyarrow.string()
    arrow = pyarrow.from_numpy_dtype(_dtype(column))
    for size in reversed(column.shape):
        arrow = pyarrow.list_(arrow, size)
    return arrow


def _arrow(key: str, values: Any, arrow: Any, class_names: tuple[str, ...]) -> Any:
    import pyarrow

    if key == "labels":
        return pyarrow.array([None if index < 0 else class_names[index] for index in values.tolist()], arrow)
    if isinstance(values, list):
        return pyarrow.array(values, arrow)
    types = [arrow]
    while pyarrow.types.is_fixed_size_list(types[-1]):
        types.append(types[-1].value_type)
    array = pyarrow.array(np.ascontiguousarray(values).reshape(-1), types[-1])
    for nested in reversed(types[:-1]):
        array = pyarrow.FixedSizeListArray.from_arrays(array, type=nested)
    return array


def _describe(path: Path, described: Description, names: list[str]) -> None:
    content = described.model_copy(update={"files": tuple(names)})
    (path / FILE).write_text(content.text())


def _require_no_nul(tables: Tables, described: Description, to: str) -> None:
    """Raise FileError for a text with a NUL, which ends a text in these formats."""
    texts = [
        *described.class_names,
        *(str(v) for t in tables.values() if "ids" in t for v in t["ids"].values()),
    ]
    if bad := next((text for text in texts if "\0" in text), None):
        hint = f"export {option('to', 'parquet')} or {option('to', 'safetensors')}"
        raise FileError(f"{to} cannot hold a text with a NUL", got=repr(bad), hint=hint)
