"""Columns: arrays of some file, one row for each sample, read a run of rows at a time.

Every format gives its arrays as columns. Columns are joined (shards), picked (splits) and nested (bags)
without reading them.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from featcache.errors import SourceError

FLOATS = ("float16", "bfloat16", "float32", "float64")
"""Kinds of numbers that can be embeddings. bfloat16 is read as float32, which holds it exactly."""
_AT_ONCE = 32
_LET_GO = 256 << 20
_PIECE = 32 << 20

T = TypeVar("T")
Shape = tuple[int | None, ...]
Read = Callable[[int, int], Any]


@dataclass(frozen=True)
class Column:
    """One array of a file. `read(start, stop)` gives the rows [start, stop).

    Numbers come as an array (n, *shape) in the byte order of this machine, texts as a list of str or None.
    Where rows differ in length, they come as a list of arrays.
    """

    where: str
    """The name of the array and its file, for messages."""
    rows: int
    shape: Shape
    """The shape of a row. None is an axis that differs in length from row to row."""
    kind: str
    """One of FLOATS, `int`, `bool`, `string`, or the name of a type that cannot be used."""
    read: Read
    longest: int = 0
    """The largest length of rows that differ in length."""

    @property
    def tokens(self) -> int:
        """The number of tokens of the longest row of (T, D)."""
        return self.longest if self.shape[0] is None else self.shape[0]

    def describe(self) -> str:
        """Describe shape and type as messages do.

        >>> Column("x", 9, (None, 4), "float32", list, 7).describe()
        '(9, up to 7, 4) float32'
        """
        axes = [str(self.rows), *(f"up to {self.longest}" if n is None else str(n) for n in self.shape)]
        return f"({', '.join(axes)}{',' * (len(axes) == 1)}) {self.kind}"

    def pieces(self) -> Iterator[tuple[int, int]]:
        """Yield runs of rows of some megabytes each."""
        width = max(1, int(np.prod([self.longest if n is None else n for n in self.shape], dtype=np.int64)))
        step = max(1, _PIECE // (8 * width))
        for start in range(0, self.rows, step):
            yield start, min(start + step, self.rows)

    def values(self) -> list[object]:
        """Read the whole column of single values (n,) or (n, 1)."""
        found: list[object] = []
        for start, stop in self.pieces():
            part = self.read(start, stop)
            found += part.reshape(stop - start).tolist() if isinstance(part, np.ndarray) else part
        return found


Columns = Mapping[str, Column]


@dataclass(frozen=True)
class Opened:
    """The arrays of one file, and what it says of itself."""

    name: str
    """The file's name below the place that the user named."""
    columns: Columns
    class_names: tuple[str, ...] | None = None
    """Names of the classes by index, where the file says them."""
    table: bool = False
    """True if all columns belong to the same rows, as in Parquet."""
    described: Mapping[str, Any] | None = None
    """The description that an export of featcache wrote into the file."""


class Handle(Generic[T]):
    """The open form of a file: opened when needed, and let go of from time to time.

    Only so many handles are open at a time. One that has read a lot is opened anew, because pages of a
    mapped file count as memory of the process for as long as it is mapped.
    """

    _used: ClassVar[OrderedDict[int, Handle[Any]]] = OrderedDict()

    def __init__(self, make: Callable[[], T]) -> None:
        self._make, self._read = make, 0
        self._made: list[T] = []

    def __call__(self, nbytes: int = 0) -> T:
        """Return the open form, to read about so many bytes from it."""
        if self._read > _LET_GO:
            self.release()
        made = self._made
        if not made:
            made.append(self._make())
        self._read += nbytes
        self._used[id(self)] = self
        self._used.move_to_end(id(self))
        while len(self._used) > _AT_ONCE:
            self._used.popitem(last=False)[1].release()
        return made[0]

    def release(self) -> None:
        """Let go of the open form."""
        self._made.clear()
        self._read = 0
        self._used.pop(id(self), None)


def kind_of(dtype: np.dtype[Any]) -> str:
    """Return the kind of a NumPy type.

    >>> kind_of(np.dtype(">f4")), kind_of(np.dtype("U3")), kind_of(np.dtype("uint8")), kind_of(np.dtype("O"))
    ('float32', 'string', 'int', 'object')
    """
    if dtype.kind == "f":
        return f"float{8 * dtype.itemsize}"
    names = {"b": "bool", "i": "int", "u": "int", "U": "string", "S": "string", "T": "string"}
    return names.get(dtype.kind, str(dtype))


def native(values: NDArray[Any]) -> Any:
    """Return numbers in the byte order of this machine, and texts as a list of str."""
    if values.dtype.kind in "UST":
        return [text(value) for value in values.reshape(-1).tolist()]
    return np.ascontiguousarray(values, values.dtype.newbyteorder("="))


def text(value: Any) -> str | None:
    """Return a text that a file may hold as bytes."""
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    return None if value is None else str(value)


def widest(kinds: Sequence[str]) -> str:
    """Return the narrowest kind of float that holds all of `kinds` exactly.

    >>> widest(["float16", "float16"]), widest(["float16", "bfloat16"]), widest(["bfloat16", "float32"])
    ('float16', 'float32', 'float32')
    """
    distinct = set(kinds)
    if len(distinct) == 1:
        return distinct.pop()
    return "float64" if "float64" in distinct else "float32"


def join(columns: Sequence[Column]) -> Column:
    """Return the rows of several columns one after the other.

    Raise SourceError if their widths or types do not fit together.
    """
    first = columns[0]
    if len(columns) == 1:
        return first
    for other in columns[1:]:
        same = len(other.shape) == len(first.shape) and other.shape[-1:] == first.shape[-1:]
        if not same or (first.kind in FLOATS) != (other.kind in FLOATS):
            raise SourceError(
                "the files do not fit together",
                got=f"{other.where} {other.describe()}, but {first.where} {first.describe()}",
                expected="the same width in every file",
            )
    starts = [0, *itertools.accumulate(column.rows for column in columns)]
    kinds = [column.kind for column in columns]
    kind = widest(kinds) if first.kind in FLOATS else first.kind
    shapes = {column.shape for column in columns}
    ragged = len(shapes) > 1
    shape = (None, *first.shape[1:]) if ragged else first.shape
    longest = max(column.tokens for column in columns) if len(first.shape) == 2 else 0

    def read(start: int, stop: int) -> Any:
        parts = []
        for at in range(bisect_right(starts, start) - 1, len(columns)):
            low, high = max(start, starts[at]), min(stop, starts[at + 1])
            if low >= stop:
                break
            if high > low:
                parts.append(columns[at].read(low - starts[at], high - starts[at]))
        return _stack(parts, None in shape)

    return Column(first.where, starts[-1], shape, kind, read, longest)


def pick(column: Column, rows: NDArray[np.int64]) -> Column:
    """Return the column of some rows, which are sorted."""
    if len(rows) == column.rows:
        return column
    step = next((stop for _, stop in column.pieces()), 1)

    def read(start: int, stop: int) -> Any:
        wanted, parts = rows[start:stop], []
        # Piece by piece, as the rows of one split may lie far apart.
        for _, group in itertools.groupby(wanted.tolist(), key=lambda row: row // step):
            near = np.array(list(group))
            found = column.read(int(near[0]), int(near[-1]) + 1)
            inside = near - near[0]
            parts.append(found[inside] if isinstance(found, np.ndarray) else [found[i] for i in inside])
        return _stack(parts, None in column.shape)

    return replace(column, rows=len(rows), read=read)


def bags(columns: Sequence[Column]) -> Column:
    """Return a column whose rows are whole columns of (n, D) or (1, n, D): a sample for each file."""
    first = columns[0]
    shapes = [_bag_shape(column) for column in columns]
    for column, (_, width) in zip(columns, shapes, strict=True):
        if width != shapes[0][1] or column.kind not in FLOATS:
            raise SourceError(
                "the files do not fit together",
                got=f"{column.where} {column.describe()}, but {first.where} {first.describe()}",
                expected="the same width in every file",
            )
    lengths = [length for length, _ in shapes]
    ragged = len(set(lengths)) > 1
    kind = widest([column.kind for column in columns])

    def read(start: int, stop: int) -> Any:
        found = [_bag(column) for column in columns[start:stop]]
        return found if ragged else np.stack(found)

    shape = (None if ragged else lengths[0], shapes[0][1])
    return Column(first.where, len(columns), shape, kind, read, max(lengths))


def _bag_shape(column: Column) -> tuple[int, int]:
    shape = column.shape
    if len(shape) == 1 and shape[0] is not None:
        return column.rows, shape[0]
    if len(shape) == 2 and column.rows == 1 and shape[0] is not None and shape[1] is not None:
        return shape[0], shape[1]
    raise SourceError(
        f"{column.where} is not a bag of patches",
        got=column.describe(),
        expected="(patches, D) or (1, patches, D)",
    )


def _bag(column: Column) -> NDArray[Any]:
    values = column.read(0, column.rows)
    return np.asarray(values).reshape(-1, values.shape[-1])


def _stack(parts: Sequence[Any], ragged: bool) -> Any:
    if ragged:
        return [row for part in parts for row in part]
    if parts and isinstance(parts[0], list):
        return [value for part in parts for value in part]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
