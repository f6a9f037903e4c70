"""Commit full units while the next ones are written: forced to disk, named, and entered in the ledger."""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import NamedTuple

from featcache.cache import ledger
from featcache.cache.codec import ShardFile
from featcache.cache.layout import Unit
from featcache.cache.records import FileRecord
from featcache.cache.storage import Storage, explained

_BYTES, _UNITS, _THREADS = 256 << 20, 16, 16
"""Limits of what is in flight, which a kill loses; a single larger unit is let through."""


class FullUnit(NamedTuple):
    """All rows of a unit, in complete files that are not yet durable."""

    unit: Unit
    failed: Mapping[int, str]
    files: Sequence[ShardFile]

    @property
    def nbytes(self) -> int:
        """Bytes of its files."""
        return sum(file.size for file in self.files)

    def entry(self) -> ledger.Entry:
        """Return its entry in the ledger."""
        records = {file.key: FileRecord(bytes=file.size, crc32c=file.crc32c) for file in self.files}
        return ledger.Entry(rows=self.unit.stop - self.unit.start, failed=dict(self.failed), files=records)


_Forced = tuple[FullUnit, Sequence[Future[None]]]
"""A unit, and its files on their way to disk."""


class Committer:
    """A thread that commits units of a split in the order they came, all waiting ones together.

    A commit waits for the disk several times, whatever its size. Large units wait while the next one is
    written: their files are on the way to disk as soon as they are full. Small units share the waiting.
    """

    def __init__(self, split: Storage) -> None:
        self._split = split
        self._forcing = ThreadPoolExecutor(_THREADS, "featcache-force")
        self._thread = ThreadPoolExecutor(1, "featcache-commit")
        self._waiting: queue.SimpleQueue[_Forced] = queue.SimpleQueue()
        self._running: deque[tuple[int, Future[None]]] = deque()

    def put(self, unit: FullUnit) -> None:
        """Hand over a unit; wait while too much is in flight, and raise the error of an earlier commit."""
        while self._running and (self._running[0][1].done() or self._is_behind(unit)):
            self._running.popleft()[1].result()
        self._waiting.put((unit, [self._forcing.submit(file.force) for file in unit.files]))
        self._running.append((unit.nbytes, self._thread.submit(self._commit_waiting)))

    def wait(self) -> None:
        """Return once every unit handed over is committed; raise the error of a failed commit."""
        while self._running:
            self._running.popleft()[1].result()

    def close(self) -> None:
        """Wait as `wait` does, and end the threads."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()
            self._forcing.shutdown()

    def _is_behind(self, unit: FullUnit) -> bool:
        in_flight = sum(nbytes for nbytes, _ in self._running)
        return len(self._running) == _UNITS or in_flight + unit.nbytes > _BYTES

    def _commit_waiting(self) -> None:
        units = []
        while not self._waiting.empty():
            units.append(self._waiting.get())
        if units:
            forced = [done for _, waiting in units for done in waiting]
            wait(forced)
            _commit(self._split, [unit for unit, _ in units], forced)


def _commit(split: Storage, units: Sequence[FullUnit], forced: Sequence[Future[None]]) -> None:
    full = [file for unit in units for file in unit.files]
    try:
        with explained(split, f"rows {units[0].unit.start} to {units[-1].unit.stop - 1}"):
            for done in forced:
                done.result()
            split.publish({file.key: file.scratch for file in full})
            ledger.write(split, {unit.unit: unit.entry() for unit in units})
    except BaseException:
        for file in full:
            file.discard()
        raise
