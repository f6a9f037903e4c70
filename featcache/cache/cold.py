"""Rows that only the disk has: many reads at once, as a copy through the map waits for page after page."""

from __future__ import annotations

import functools
import itertools
import os
import resource
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from featcache.cache import codec

READERS = 32
"""Reads under way at once: a disk is fastest with many to choose from. Measured: 8 gave 0.8 of what 32 do."""
READ_BYTES, COPIED_BYTES = 1 << 20, 1 << 23
"""What one thread reads at a time, and what is copied before we look whether that waited for the disk."""


class Mapped(Protocol):
    """One view's rows in one mapped shard."""

    @property
    def path(self) -> Path:
        """The shard's file."""

    def take(self, rows: NDArray[np.int64], out: NDArray[np.uint8]) -> None:
        """Copy rows through the map."""

    def offsets(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where rows begin in the file; -1 for what is not stored."""

    def fill_absent(self, rows: NDArray[np.int64], out: NDArray[np.uint8]) -> None:
        """Set rows that are not stored to the fill value."""


class Copying:
    """The copies of one gather: through the maps for as long as that waits for no disk, then by reads.

    Linux counts the blocks that a thread has had read from disk; elsewhere nobody does, and all goes through
    the maps. `cold` is what the last gather ended with, and afterwards what this one did: whether a block was
    read. A warm gather thus costs two system calls a shard, and no Python a row.
    """

    def __init__(self, cold: bool) -> None:
        self.cold = cold
        self._reads: list[Future[int]] = []

    def __enter__(self) -> Copying:
        return self

    def __exit__(self, *_: object) -> None:
        self.wait()

    def take(self, part: Mapped, rows: NDArray[np.int64], out: NDArray[np.uint8]) -> None:
        """Copy (rows, bytes of a row) of `part` into `out`, which is not complete before `wait`."""
        start = 0
        while start < len(rows):
            stop = start + max(1, (READ_BYTES if self.cold else COPIED_BYTES) // max(1, out.shape[1]))
            if self.cold:
                self._reads.append(_readers().submit(_read, part, rows[start:stop], out[start:stop]))
            else:
                before = _blocks_read()
                part.take(rows[start:stop], out[start:stop])
                self.cold = _blocks_read() > before
            start = stop

    def wait(self) -> None:
        """Until every read is done; raises what a read raised, and then too nothing writes any more."""
        reads, self._reads = self._reads, []
        try:
            if reads:
                self.cold = sum(read.result() for read in reads) > 0
        finally:
            for read in reads:
                if not read.cancel():
                    read.exception()


def _read(part: Mapped, rows: NDArray[np.int64], out: NDArray[np.uint8]) -> int:
    """Read rows, neighbours in one go; gives the blocks that came from disk."""
    before, size = _blocks_read(), out.shape[1]
    part.fill_absent(rows, out)
    offsets = part.offsets(rows)
    if (offsets < 0).all():  # there may be no file
        return 0
    apart = (np.diff(offsets) != size) | (offsets[:-1] < 0)
    with open(part.path, "rb", buffering=0) as file:
        # Else the kernel reads ahead, which at random places is in vain.
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        for start, stop in itertools.pairwise([0, *(np.flatnonzero(apart) + 1).tolist(), len(rows)]):
            if offsets[start] >= 0:
                _read_into(file.fileno(), part.path, int(offsets[start]), out[start:stop].reshape(-1).data)
    return _blocks_read() - before


def _read_into(file: int, path: Path, at: int, into: memoryview[Any]) -> None:
    while into:
        got = os.preadv(file, [into], at)
        if not got:
            raise codec.damaged(path, f"{at:,} bytes", f"{at + len(into):,} bytes or more")
        into, at = into[got:], at + got


def _blocks_read() -> int:
    """Blocks that this thread has had read from disk so far."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_inblock if hasattr(resource, "RUSAGE_THREAD") else 0


@functools.cache
def _readers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(READERS, "featcache-read")


# A forked process has none of the threads.
os.register_at_fork(after_in_child=_readers.cache_clear)
