"""Read rows of an array: each index is decoded once, and each touched shard costs one vectorised copy."""

from __future__ import annotations

import functools
import itertools
import mmap
import resource
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.cache import codec, readahead
from featcache.cache.checks import ShardChecks
from featcache.cache.layout import ArrayLayout, Cell, Unit, parse_array
from featcache.cache.records import damaged
from featcache.cache.storage import Place, Storage, folder_of, storage_at
from featcache.cache.zarr_files import METADATA, require_whole
from featcache.errors import CacheError
from featcache.outside import json_of


class ShardedArray:
    """An uncompressed Zarr v3 array (sample, view, ...row), sharded or not, written by anyone.

    Shards are mapped when first touched and kept. Safe to use from several threads; can be pickled.
    """

    def __init__(
        self,
        storage: Storage,
        layout: ArrayLayout,
        *,
        strict: bool = False,
        checks: ShardChecks | None = None,
    ) -> None:
        self.storage, self.layout, self._strict, self._checks = storage, layout, strict, checks
        self._cold, self._asked = True, False
        # Without a reference to self: a cycle would keep every map (and, before Python 3.13, its file) open
        # until the garbage collector happens to run.
        shards = _Shards(storage, layout, strict, checks)
        self._part = functools.lru_cache(maxsize=_most_mapped())(shards.part)

    @classmethod
    def open(
        cls, place: Place | Storage, *, strict: bool = False, checks: ShardChecks | None = None
    ) -> ShardedArray:
        """Open the array in a folder, or at any other storage.

        A shard without a file holds the fill value, as in Zarr. With `strict` it is an error, as in a
        complete cache. `checks` are those of the split that it belongs to: every shard that is read from is
        checked. Raise CacheError if there is no array, or it is compressed, altered or not supported.
        """
        storage = storage_at(place)
        got: object = "no zarr.json"
        if (data := storage.read(METADATA)) is not None:
            require_whole(storage, data)
            try:
                return cls(storage, parse_array(json_of(data), str(storage)), strict=strict, checks=checks)
            except ValueError as error:
                got = error
        raise CacheError(f"no Zarr v3 array at {storage}", got=got, expected="a folder with zarr.json")

    def __reduce__(self) -> tuple[Any, ...]:
        again = functools.partial(ShardedArray.open, strict=self._strict, checks=self._checks)
        return again, (self.storage,)

    @property
    def path(self) -> Path:
        """Folder of the array; raises CacheError if its storage is not a folder."""
        return folder_of(self.storage)

    @property
    def shape(self) -> tuple[int, ...]:
        """(samples, views, ...row)."""
        return self.layout.shape

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of one sample in one view."""
        return self.layout.row_shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values that `gather` returns; uint16 for the bits of bfloat16."""
        return self.layout.dtype

    @property
    def bfloat16(self) -> bool:
        """True if the values are bits of bfloat16."""
        return self.layout.bfloat16

    @property
    def nbytes(self) -> int:
        """Bytes of all values, as in NumPy."""
        return self.shape[0] * self.shape[1] * self.layout.row_bytes

    def gather(self, rows: NDArray[np.int64], view: int, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Copy rows of one view in the given order; duplicates are allowed, and sorted rows are fastest.

        `out` is filled and returned: C-contiguous, of shape (len(rows), *row_shape) and of this dtype. Reuse
        it, because a new buffer costs more than the copy. Raise IndexError for a row or view outside the
        array, CacheError for a damaged shard; `finish_checks` waits until all of them are checked.
        """
        if self._checks is not None:
            self._checks.raise_found()
        rows = np.asarray(rows, np.int64)
        _check_bounds(rows, view, self)
        out = _buffer((len(rows), *self.row_shape), self.dtype, out)
        if out.size:
            before = readahead.blocks_read()
            if self._cold:
                self._ask(rows, view)
            for cell in self.layout.cells:
                _gather_cell(self._part, self.layout, rows, view, cell, out)
            self._cold = readahead.blocks_read() > before or self._asked
            self._asked = False
        return out

    def read_ahead(self, rows: NDArray[np.int64], view: int) -> None:
        """Request the rows of a later `gather` from disk if the last one read from disk; return at once."""
        if self._cold:
            before = readahead.blocks_read()
            self._ask(rows, view)
            self._asked |= readahead.blocks_read() > before

    def require_index(self, unit: Unit) -> None:
        """Raise CacheError if the shard of a unit is missing, or its index is damaged."""
        self._part(unit.block, unit.view, self.layout.cells[0])

    def finish_checks(self) -> None:
        """Wait until every shard read from has been checked; raise CacheError if one is damaged."""
        if self._checks is not None:
            self._checks.finish()

    def _ask(self, rows: NDArray[np.int64], view: int) -> None:
        wanted = np.unique(rows)
        blocks = wanted // self.layout.shard[0]
        for cell, block in itertools.product(self.layout.cells, np.unique(blocks).tolist()):
            self._part(block, view, cell).ask(wanted[blocks == block] - block * self.layout.shard[0])


@dataclass(frozen=True)
class _Part:
    """Rows of one view in one shard: row r is `table[place[r]]`, or `table[r]` if place is None.

    `table` begins at byte `base` of the map.
    """

    mapped: mmap.mmap | None
    base: int
    table: NDArray[np.uint8]
    place: NDArray[np.int64] | None
    absent: NDArray[np.bool_] | None
    fill: NDArray[Any]

    @classmethod
    def empty(cls, rows: int, piece: int, fill: NDArray[Any]) -> _Part:
        return cls(None, 0, np.empty((0, piece), np.uint8), None, np.ones(rows, np.bool_), fill)

    @classmethod
    def at(
        cls,
        mapped: mmap.mmap | None,
        data: NDArray[np.uint8],
        starts: NDArray[np.int64],
        piece: int,
        fill: NDArray[Any],
    ) -> _Part:
        """Return the part whose row r begins at byte `starts[r]` of the file (-1: not stored)."""
        present = starts >= 0
        if piece == 0 or not present.any():
            return cls.empty(len(starts), piece, fill)
        absent = None if present.all() else ~present
        base = int(starts[present].min())
        places, rest = np.divmod(starts - base, piece)
        if rest[present].any():  # gaps between chunks are legal, though no known writer leaves them
            windows = np.lib.stride_tricks.sliding_window_view(data, piece)
            return cls(mapped, 0, windows, np.where(present, starts, 0), absent, fill)
        table = data[base:][: (data.nbytes - base) // piece * piece].reshape(-1, piece)
        in_order = absent is None and bool((places == np.arange(len(places))).all())
        return cls(mapped, base, table, None if in_order else np.where(present, places, 0), absent, fill)

    def take(self, rows: NDArray[np.int64], out: NDArray[np.uint8]) -> None:
        places = self._places(rows)
        if not self.table.flags.c_contiguous:
            out[...] = self.table[places]
        elif self.table.size:
            # mode="clip" avoids a buffered copy in NumPy; the bounds have been checked.
            self.table.take(places, axis=0, out=out, mode="clip")
        if self.absent is not None:
            out.view(self.fill.dtype)[self.absent[rows]] = self.fill

    def ask(self, rows: NDArray[np.int64]) -> None:
        stored = rows if self.absent is None else rows[~self.absent[rows]]
        if self.mapped is not None and len(stored):
            readahead.ask(
                self.mapped,
                self.base + self._places(stored) * self.table.strides[0],
                self.table.shape[1],
            )

    def _places(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        return rows if self.place is None else self.place[rows]


def _gather_cell(
    part_of: Callable[[int, int, Cell], _Part],
    layout: ArrayLayout,
    rows: NDArray[np.int64],
    view: int,
    cell: Cell,
    out: NDArray[Any],
) -> None:
    """Copy one cell of every row; `part_of` gives the part of a shard, a view and a cell."""
    order = None if _is_sorted(rows) else np.argsort(rows, kind="stable")
    wanted = rows if order is None else rows[order]
    blocks = wanted // layout.shard[0]
    starts = np.flatnonzero(np.diff(blocks, prepend=-1))
    whole_rows = layout.chunk[2:] == layout.row_shape
    direct = out.reshape(len(rows), -1).view(np.uint8) if whole_rows and order is None else None
    longest = 0 if direct is not None else int(np.diff(starts, append=len(rows)).max())
    scratch = np.empty((longest, layout.piece_bytes), np.uint8)
    for start, stop in itertools.pairwise([*starts.tolist(), len(rows)]):
        block = int(blocks[start])
        part = part_of(block, view, cell)
        local = wanted[start:stop] - block * layout.shard[0]
        if direct is not None:
            part.take(local, direct[start:stop])
            continue
        target = slice(start, stop) if order is None else order[start:stop]
        part.take(local, scratch[: stop - start])
        values = scratch[: stop - start].view(layout.dtype).reshape(-1, *layout.chunk[2:])
        _place(values, target, layout.region(cell), out)


@dataclass(frozen=True)
class _Shards:
    """The shards of an array, to be mapped."""

    storage: Storage
    layout: ArrayLayout
    strict: bool
    checks: ShardChecks | None

    def part(self, block: int, view: int, cell: Cell) -> _Part:
        """Map one shard, and have it checked; return the part that holds one cell of one view."""
        layout, (outer, inner) = self.layout, cell
        shard_view, in_shard = divmod(view, layout.shard[1])
        chunk_view, in_chunk = divmod(in_shard, layout.chunk[1])
        key = layout.key((block, shard_view, *outer))
        path = self.storage.local(key)
        start = block * layout.shard[0]
        rows = min(layout.shard[0], layout.shape[0] - start)
        piece = layout.piece_bytes
        try:
            mapped = _map(path, layout.index_bytes)
        except (IsADirectoryError, NotADirectoryError) as error:
            self.storage.require_pin()
            raise damaged(path, error.strerror, f"a file with {rows} rows of view {view}") from None
        except FileNotFoundError:
            self.storage.require_pin()
            if self.strict:
                raise damaged(path, "no such file", f"{rows} rows of view {view}") from None
            return _Part.empty(rows, piece, layout.fill)
        # Now that the file is open, nothing can put another in its place.
        self.storage.require_pin()
        if self.checks is not None:
            self.checks.ask(f"{self.storage.name}/{key}", Unit(block, view, start, start + rows))
        data = np.empty(0, np.uint8) if mapped is None else np.frombuffer(mapped, np.uint8)
        along: tuple[Any, ...] = (slice(None), chunk_view, *inner)
        offsets = _offsets(data, layout, path)[along]
        local = np.arange(rows)
        within = (local % layout.chunk[0] * layout.chunk[1] + in_chunk) * piece
        starts = offsets[local // layout.chunk[0]]
        return _Part.at(mapped, data, np.where(starts < 0, -1, starts + within), piece, layout.fill)


def _check_bounds(rows: NDArray[np.int64], view: int, array: ShardedArray) -> None:
    samples, views = array.shape[:2]
    if not 0 <= view < views:
        raise IndexError(f"view {view} is outside the {views} views of {array.storage}")
    if rows.size and not (rows.min() >= 0 and rows.max() < samples):
        raise IndexError(f"rows {rows.min()}..{rows.max()} reach outside the {samples} of {array.storage}")


def _offsets(data: NDArray[np.uint8], layout: ArrayLayout, path: Path) -> NDArray[np.int64]:
    if layout.sharded:
        return codec.decode_index(data, layout, path)
    if data.nbytes != layout.chunk_bytes:
        raise damaged(path, f"{data.nbytes:,} bytes", f"{layout.chunk_bytes:,} bytes")
    return np.zeros([1] * len(layout.shape), np.int64)


def _buffer(shape: tuple[int, ...], dtype: np.dtype[Any], out: NDArray[Any] | None) -> NDArray[Any]:
    if out is None:
        return np.empty(shape, dtype)
    if out.shape != shape or out.dtype != dtype or not out.flags.c_contiguous:
        got = f"{out.shape} {out.dtype}, contiguous: {out.flags.c_contiguous}"
        raise ValueError(f"out must be a C-contiguous {shape} {dtype}, got {got}")
    return out


def _place(values: NDArray[Any], target: Any, region: list[slice], out: NDArray[Any]) -> None:
    """Copy the values of a cell to their rows, without what reaches beyond the array."""
    inside = [slice(0, part.stop - part.start) for part in region]
    out[(target, *region)] = values[(slice(None), *inside)]


def _is_sorted(rows: NDArray[np.int64]) -> bool:
    return bool((rows[1:] >= rows[:-1]).all())


def _map(path: Path, index_bytes: int) -> mmap.mmap | None:
    """Map a file; return None if it is empty."""
    with open(path, "rb") as file:
        if file.seek(0, 2) == 0:
            return None
        if sys.version_info >= (3, 13):
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ, trackfd=False)
        else:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    # Request only the index at the end; otherwise the kernel reads megabytes around its first page.
    start = max(0, len(mapped) - max(1, index_bytes)) // mmap.PAGESIZE * mmap.PAGESIZE
    mapped.madvise(mmap.MADV_WILLNEED, start)
    return mapped


def _most_mapped() -> int:
    """Return the number of shards that an array keeps mapped; before 3.13 each holds a file descriptor."""
    if sys.version_info >= (3, 13):
        return 8192
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 8192 if soft == resource.RLIM_INFINITY else min(max(soft // 8, 8), 8192)
