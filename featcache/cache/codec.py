"""The bytes of a shard (rows in order, then the index and its crc32c), and of the values in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from featcache.cache.layout import ArrayLayout
from featcache.cache.records import damaged
from featcache.cache.storage import NewFile, Storage
from featcache.errors import CacheError
from featcache.specs import ValueType

ABSENT = np.uint64(2**64 - 1)
"""Offset and size of an inner chunk that is not stored (Zarr v3, sharding codec)."""
_INFINITY = {"float16": 0x7C00, "bfloat16": 0x7F80, "float32": 0x7F800000}
_PIECE = 1 << 19


class ShardFile:
    """Writes one file of a split front to back, without holding it in memory, for `Storage.publish`.

    `kind` is the type of values that must be finite; None if any bytes are allowed.
    """

    def __init__(self, split: Storage, key: str, layout: ArrayLayout, kind: ValueType | None) -> None:
        self.key, self.scratch = key, split.scratch(key)
        self._name, self._layout, self._kind = f"{split}/{key}", layout, kind
        self._file = NewFile(self.scratch)
        self.size, self.crc32c = 0, 0

    def append(self, rows: NDArray[Any]) -> int | None:
        """Write the next rows: C-contiguous, of the stored dtype.

        Return None, or the flat position of the first NaN or infinity, before which writing stopped.
        """
        values = rows.reshape(-1)
        # Piece by piece, so that each is still in the processor's cache when it is summed and written.
        step = _PIECE // values.itemsize
        for start in range(0, values.size, step):
            piece = values[start : start + step]
            at = None if self._kind is None else first_not_finite(piece, self._kind)
            if at is not None:
                return start + at
            self._write(piece.view(np.uint8))
        return None

    def finish(self) -> None:
        """Pad the last chunk with zeros and write the index."""
        padding = -self.size % self._layout.chunk_bytes
        self._write(np.zeros(padding, np.uint8))
        if self._layout.sharded:
            self._write(np.frombuffer(encode_index(self.size, self._layout), np.uint8))

    def force(self) -> None:
        """Force the finished file to disk; raise CacheError if its size is wrong."""
        found = self._file.force()
        if found != self.size:
            raise CacheError(f"{self._name} was not written completely", got=found, expected=self.size)

    def discard(self) -> None:
        """Delete what was written, unless it has been published."""
        self._file.discard()

    def _write(self, data: NDArray[np.uint8]) -> None:
        self.crc32c = google_crc32c.extend(self.crc32c, data)
        self.size += data.nbytes
        self._file.write(data.data)


def encode_index(data_bytes: int, layout: ArrayLayout) -> bytes:
    """Return the index, with crc32c, of a shard whose first `data_bytes` bytes are its chunks in order."""
    chunks = np.prod(layout.chunks, dtype=int)
    index = np.full((chunks, 2), ABSENT, "<u8")
    present = data_bytes // layout.chunk_bytes
    index[:present, 0] = np.arange(present) * layout.chunk_bytes
    index[:present, 1] = layout.chunk_bytes
    entries = index.tobytes()
    checksum: int = google_crc32c.value(entries)
    return entries + checksum.to_bytes(4, "little")


def decode_index(data: NDArray[np.uint8], layout: ArrayLayout, path: Path) -> NDArray[np.int64]:
    """Return the byte offset of every inner chunk, (chunks along each axis); -1 if a chunk is not stored.

    Raise CacheError if the file is too short, its checksum is wrong, or a chunk lies outside of the file.
    """
    if data.nbytes < layout.index_bytes:
        raise damaged(
            path, f"{data.nbytes:,} bytes", f"at least the {layout.index_bytes:,} bytes of its index"
        )
    raw = data[-layout.index_bytes :] if layout.index_at_end else data[: layout.index_bytes]
    entries = raw[: len(raw) - 4 * layout.index_crc].tobytes()
    found, expected = google_crc32c.value(entries), int.from_bytes(raw[len(entries) :].tobytes(), "little")
    if layout.index_crc and found != expected:
        got = f"{data.nbytes:,} bytes, index with crc32c {found:08x}"
        raise damaged(path, got, f"index with crc32c {expected:08x}, as the file's last bytes say")
    index = np.frombuffer(entries, "<u8").reshape(-1, 2)
    present = (index != ABSENT).any(axis=1)
    last = max(data.nbytes - layout.chunk_bytes, 0)
    outside = present & ((index[:, 1] != layout.chunk_bytes) | (index[:, 0] > last))
    if outside.any():
        offset, size = index[outside][0]
        got = f"a chunk of {size:,} bytes at {offset:,} in a file of {data.nbytes:,}"
        raise damaged(path, got, f"chunks of {layout.chunk_bytes:,} bytes inside the file")
    return np.where(present, index[:, 0].astype(np.int64), -1).reshape(layout.chunks)


def to_storage(values: NDArray[Any], dtype: ValueType) -> NDArray[Any]:
    """Round to the stored type (to nearest, ties to even), C-contiguous; bfloat16 as bits in uint16.

    Values that are too large become infinite; `first_not_finite` finds them.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        if dtype != "bfloat16":
            return np.ascontiguousarray(values, np.dtype(dtype).newbyteorder("<"))
        bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
    quiet_nan = (bits >> 16) | 0x40
    return np.where(np.isnan(values), quiet_nan, rounded).astype("<u2")


def from_bfloat16(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Return the float32 values of bfloat16 bits, exactly.

    >>> from_bfloat16(to_storage(np.array([1.0, -2.5]), "bfloat16"))
    array([ 1. , -2.5], dtype=float32)
    """
    return (bits.astype(np.uint32) << 16).view(np.float32)


def first_not_finite(stored: NDArray[Any], dtype: ValueType) -> int | None:
    """Return the flat position of the first NaN or infinity among stored values; None if all are finite.

    >>> first_not_finite(to_storage(np.array([1.0, 7e4]), "float16"), "float16")
    1
    """
    # A value is not finite exactly if its bits reach those of infinity: compared as signed integers if it is
    # positive, as unsigned integers if it is negative. Two maxima are faster than np.isfinite.
    size, positive = stored.dtype.itemsize, _INFINITY[dtype]
    negative, bits = positive + (1 << (8 * size - 1)), stored.reshape(-1).view(f"<u{size}")
    if not bits.size or (bits.max() < negative and bits.view(f"<i{size}").max() < positive):
        return None
    return int(np.argmax((bits >= negative) | (bits.view(f"<i{size}") >= positive)))
