"""The place of every row in units, shards, chunks and bytes: pure arithmetic without I/O."""

from __future__ import annotations

import functools
import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from featcache.errors import CacheError, option

MIN_CHUNK_BYTES = 1 << 16
MAX_BLOCK_ROWS = 4096
"""Limit of rows in a shard whose size is given in bytes, because a kill loses up to a shard of work."""
MAX_UNITS = 1_000_000
"""Limit of the shards of a split in each array; a million files."""
MAX_SHARD_ROWS = 1_000_000
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
_DTYPES = {"bool", "float16", "float32", "float64"} | {
    f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)
}


Cell = tuple[tuple[int, ...], tuple[int, ...]]
"""A part of a row: coordinates of the shard, and of the inner chunk in it, along the row's own axes."""


@dataclass(frozen=True)
class Unit:
    """Unit of work and of commit: the rows [start, stop) of block number `block`, in one view."""

    block: int
    view: int
    start: int
    stop: int


def units(rows: int, views: int, block_rows: int) -> Iterator[Unit]:
    """Yield every unit of a split, block by block, and view by view within a block.

    >>> [(u.block, u.view, u.start, u.stop) for u in units(rows=5, views=1, block_rows=3)]
    [(0, 0, 0, 3), (1, 0, 3, 5)]
    """
    blocks = -(-rows // block_rows)
    if blocks * views > MAX_UNITS:
        raise CacheError(
            "too many shards",
            got=f"{blocks * views:,}: {rows:,} rows, {views:,} views, {block_rows:,} rows in a shard",
            expected=f"at most {MAX_UNITS:,}",
            hint=f"more rows in a shard: {option('shard_size')}",
        )
    for block in range(blocks):
        start = block * block_rows
        for view in range(views):
            yield Unit(block, view, start, min(start + block_rows, rows))


def block_rows(shard_size: str, row_bytes: int) -> int:
    """Return the rows in a shard of `shard_size`, given in bytes ("64MB", "1GiB") or rows ("512").

    A size in bytes is rounded down to a multiple of 64 rows, so that whole chunks of any array fit. It gives
    at least one row, and at most MAX_BLOCK_ROWS. Raise ValueError if the size cannot be parsed.

    >>> block_rows("1MB", row_bytes=3_000), block_rows("512", row_bytes=3_000)
    (320, 512)
    """
    match = re.fullmatch(r"(\d{1,15})\s*(?:([KMG]i?)?(B))?", shard_size.strip())
    if match is None or int(match[1]) == 0:
        raise ValueError("a shard size is bytes like 64MB, 1GB, 1GiB, or a number of rows like 512")
    if match[3] is None:
        if int(match[1]) > MAX_SHARD_ROWS:
            raise ValueError(f"at most {MAX_SHARD_ROWS:,} rows in a shard")
        return int(match[1])
    rows = min(int(match[1]) * _UNITS[match[2] or ""] // row_bytes, MAX_BLOCK_ROWS)
    return max(rows - rows % 64 if rows > 64 else rows, 1)


def chunk_rows(block: int, row_bytes: int) -> int:
    """Return the rows in an inner chunk: the smallest divisor of the block that makes it 64 KiB or more.

    >>> chunk_rows(block=384, row_bytes=302_592), chunk_rows(block=384, row_bytes=1_024)
    (1, 64)
    """
    least = min(math.ceil(MIN_CHUNK_BYTES / row_bytes), block)
    return next(rows for rows in range(least, block + 1) if block % rows == 0)


def whole_size(value: object) -> int:
    """Return a size in metadata; raise ValueError if it is no whole number, negative or absurdly large."""
    if type(value) is not int or not 0 <= value <= 2**48:
        raise ValueError(f"the size {str(value)[:40]}")
    return value


@dataclass(frozen=True)
class ArrayLayout:
    """Layout of one uncompressed, little-endian, C-order Zarr v3 array in its files.

    Axes are (sample, view, ...row). An array without shards has `sharded` False and `shard == chunk`.
    """

    shape: tuple[int, ...]
    shard: tuple[int, ...]
    chunk: tuple[int, ...]
    dtype: np.dtype[Any]
    """Type in memory; bfloat16 is held as its bits in uint16."""
    fill: np.ndarray[Any, Any]
    """Value of elements that were never written, as an array without axes."""
    bfloat16: bool = False
    sharded: bool = True
    index_at_end: bool = True
    index_crc: bool = True
    key_prefix: str = "c/"
    key_separator: str = "/"

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of one sample in one view."""
        return self.shape[2:]

    @property
    def row_bytes(self) -> int:
        """Bytes of one sample in one view."""
        return math.prod(self.row_shape) * self.dtype.itemsize

    @property
    def chunk_bytes(self) -> int:
        """Bytes of one inner chunk, padding included."""
        return math.prod(self.chunk) * self.dtype.itemsize

    @property
    def piece_bytes(self) -> int:
        """Contiguous bytes of one sample and view in one inner chunk; in our own arrays, the whole row."""
        return math.prod(self.chunk[2:]) * self.dtype.itemsize

    @property
    def chunks(self) -> tuple[int, ...]:
        """Inner chunks along each axis of a shard."""
        return tuple(s // c for s, c in zip(self.shard, self.chunk, strict=True))

    @property
    def index_bytes(self) -> int:
        """Bytes of the shard index: offset and size (uint64) per inner chunk, then crc32c."""
        return 16 * math.prod(self.chunks) + 4 * self.index_crc if self.sharded else 0

    @functools.cached_property
    def cells(self) -> list[Cell]:
        """Parts of a row that lie in different chunks; one in our own arrays."""
        shard, chunk = self.shard[2:], self.chunk[2:]
        outer = [range(-(-size // piece)) for size, piece in zip(self.row_shape, shard, strict=True)]
        inner = [range(size // piece) for size, piece in zip(shard, chunk, strict=True)]
        cells = itertools.product(itertools.product(*outer), itertools.product(*inner))
        return [cell for cell in cells if all(part.stop > part.start for part in self.region(cell))]

    def region(self, cell: Cell) -> list[slice]:
        """Return the slices of a row that a cell holds; empty ones if it lies outside the array."""
        shard, chunk = self.shard[2:], self.chunk[2:]
        starts = [o * s + i * c for o, i, s, c in zip(*cell, shard, chunk, strict=True)]
        return [slice(at, min(at + c, n)) for at, c, n in zip(starts, chunk, self.row_shape, strict=True)]

    def key(self, shard: Sequence[int]) -> str:
        """Return the key, below the array, of the file that holds one shard."""
        return self.key_prefix + self.key_separator.join(map(str, shard))

    def unit_key(self, unit: Unit) -> str:
        """Return the key, below the array, of the file that holds one unit."""
        return self.key((unit.block, unit.view, *(0 for _ in self.row_shape)))


def parse_array(metadata: Mapping[str, Any], where: str) -> ArrayLayout:
    """Parse the `zarr.json` of an array; `where` names it in messages.

    Raise CacheError, with what was found and what is supported, if the array is compressed, big-endian,
    transposed, not on a regular grid, or of a type without a fixed size.
    """
    try:
        layout = _parse(metadata, where)
        _require_sane(layout, where)
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, OverflowError) as error:
        raise CacheError(f"the description of {where} is damaged", got=repr(error)[:200]) from None
    return layout


def _parse(metadata: Mapping[str, Any], where: str) -> ArrayLayout:
    if metadata.get("zarr_format") != 3 or metadata.get("node_type") != "array":
        raise _unsupported(where, f"zarr_format {metadata.get('zarr_format')}, {metadata.get('node_type')}")
    name, attributes = metadata["data_type"], metadata.get("attributes", {})
    if not isinstance(name, str) or name not in _DTYPES | {"bfloat16"}:
        raise _unsupported(where, f"data type {name}")
    bfloat16 = name == "bfloat16" or attributes.get("featcache_dtype") == "bfloat16"
    dtype = np.dtype("uint16" if bfloat16 else name).newbyteorder("<")
    grid, encoding = metadata["chunk_grid"], metadata["chunk_key_encoding"]
    shape = tuple(map(whole_size, metadata["shape"]))
    if grid["name"] != "regular" or encoding["name"] not in ("default", "v2") or len(shape) < 2:
        raise _unsupported(where, f"{grid['name']} grid, {encoding['name']} keys, {len(shape)} axes")
    default = encoding["name"] == "default"
    separator = encoding.get("configuration", {}).get("separator", "/" if default else ".")
    shard = tuple(map(whole_size, grid["configuration"]["chunk_shape"]))
    return ArrayLayout(
        shape=shape,
        shard=shard,
        dtype=dtype,
        fill=_fill(metadata["fill_value"], dtype, bfloat16),
        bfloat16=bfloat16,
        key_prefix=f"c{separator}" if default else "",
        key_separator=separator,
        **_codecs(metadata["codecs"], shard, dtype, where),
    )


def _require_sane(layout: ArrayLayout, where: str) -> None:
    """Raise CacheError if shards and chunks do not make up the array, or are absurdly many or large."""
    shape, shard, chunk = layout.shape, layout.shard, layout.chunk
    fits = len(shape) == len(shard) == len(chunk) and all(
        0 < c <= s for c, s in zip(chunk, shard, strict=True)
    )
    if not (fits and all(s % c == 0 for c, s in zip(chunk, shard, strict=True))):
        got = f"shape {shape}, shards {shard}, chunks {chunk}"
        raise _unsupported(where, got)
    cells = math.prod(-(-n // s) * (s // c) for n, s, c in zip(shape[2:], shard[2:], chunk[2:], strict=True))
    sizes = (cells, math.prod(layout.chunks), math.prod(shard) * layout.dtype.itemsize, layout.row_bytes)
    limits = (10**6, 10**8, 2**44, 2**36)
    if any(size > limit for size, limit in zip(sizes, limits, strict=True)):
        raise _unsupported(where, f"rows of {layout.row_bytes:,} bytes in {cells:,} parts, shards {shard}")


def _codecs(codecs: list[Any], shard: tuple[int, ...], dtype: np.dtype[Any], where: str) -> dict[str, Any]:
    (name, options), *rest = map(_codec, codecs)
    if name != "sharding_indexed":
        _require_plain_bytes([(name, options), *rest], dtype, where)
        return {"chunk": shard, "sharded": False}
    inner, index = (list(map(_codec, options[key])) for key in ("codecs", "index_codecs"))
    _require_plain_bytes(inner, dtype, where)
    crc = [name for name, _ in index[1:]] == ["crc32c"]
    _require_plain_bytes(index[:1] if crc else index, np.dtype("uint64"), where)
    if rest:
        raise _unsupported(where, f"codec {rest[0][0]} around the shards")
    at_end = options.get("index_location", "end") == "end"
    return {"chunk": tuple(map(whole_size, options["chunk_shape"])), "index_at_end": at_end, "index_crc": crc}


def _codec(codec: Any) -> tuple[str, dict[str, Any]]:
    return (codec, {}) if isinstance(codec, str) else (codec["name"], codec.get("configuration", {}))


def _require_plain_bytes(codecs: list[tuple[str, dict[str, Any]]], dtype: np.dtype[Any], where: str) -> None:
    if other := [name for name, _ in codecs if name != "bytes"]:
        raise _unsupported(where, f"codec {', '.join(other)}")
    if dtype.itemsize > 1 and codecs[0][1].get("endian", "little") != "little":
        raise _unsupported(where, "codec bytes, big-endian")


def _fill(value: Any, dtype: np.dtype[Any], bfloat16: bool) -> np.ndarray[Any, Any]:
    if isinstance(value, str) and value.startswith("0x"):
        return np.frombuffer(int(value, 16).to_bytes(dtype.itemsize, "little"), dtype).reshape(())
    if bfloat16:
        return np.array(np.float32(value).view(np.uint32) >> 16, dtype)
    return np.array(float(value) if isinstance(value, str) else value, dtype)


def _unsupported(where: str, found: str) -> CacheError:
    return CacheError(
        f"{where} is not an array that featcache can map",
        got=found,
        expected="Zarr v3, uncompressed (codec bytes, little-endian), with or without sharding_indexed",
        hint="rewrite it with zarr.create_array(..., compressors=None)",
    )
