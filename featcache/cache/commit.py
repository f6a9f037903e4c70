"""Committing full units beside the writing of the next: forced to disk, named, and last in the ledger."""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import NamedTuple

from featcache import files
from featcache.cache import ledger
from featcache.cache.codec import ShardFile
from featcache.cache.layout import Unit
from featcache.errors import CacheError

_BYTES, _UNITS, _THREADS = 256 << 20, 16, 16
"""Together in flight at most, which is what a kill costs; a single larger unit is let through."""


class FullUnit(NamedTuple):
    """All rows of a unit, in files that are written to the end and not yet safe."""

    split: Path
    unit: Unit
    failed: Mapping[int, str]
    files: Mapping[str, ShardFile]
    """By array."""

    @property
    def nbytes(self) -> int:
        """Bytes of its files."""
        return sum(file.size for file in self.files.values())

    def entry(self) -> ledger.Entry:
        """What the ledger says of it."""
        records = {
            str(file.path.relative_to(self.split)): ledger.FileRecord(bytes=file.size, crc32c=file.crc32c)
            for file in self.files.values()
        }
        return ledger.Entry(rows=self.unit.stop - self.unit.start, failed=dict(self.failed), files=records)

    def folders(self) -> set[Path]:
        """Every folder, up to the arrays', whose names are to be safe: a unit may be the first in them."""
        return {
            folder
            for name, file in self.files.items()
            for folder in files.below(file.path, self.split / name)
        }


_Forced = tuple[FullUnit, Sequence[Future[None]]]
"""A unit, and its files on their way to disk."""


class Committer:
    """One thread that commits units in the order they came, all that wait at the same time.

    A commit waits for the disk several times, whatever its size: large units spend that time beside the
    writing of the next one, whose files the disk has from the moment they are full; small ones share it.
    """

    def __init__(self) -> None:
        self._forcing = ThreadPoolExecutor(_THREADS, "featcache-force")
        self._thread = ThreadPoolExecutor(1, "featcache-commit")
        self._waiting: queue.SimpleQueue[_Forced] = queue.SimpleQueue()
        self._running: deque[tuple[int, Future[None]]] = deque()

    def put(self, unit: FullUnit) -> None:
        """Hand over a unit; waits while too much is in flight, and raises what kept an earlier one back."""
        while self._running and (self._running[0][1].done() or self._is_behind(unit)):
            self._running.popleft()[1].result()
        self._waiting.put((unit, [self._forcing.submit(file.force) for file in unit.files.values()]))
        self._running.append((unit.nbytes, self._thread.submit(self._commit_waiting)))

    def wait(self) -> None:
        """Return once everything handed over is committed; raises what kept a unit back."""
        while self._running:
            self._running.popleft()[1].result()

    def close(self) -> None:
        """`wait`, and end the thread."""
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
            _commit([unit for unit, _ in units], forced)


def _commit(units: Sequence[FullUnit], forced: Sequence[Future[None]]) -> None:
    full = [file for unit in units for file in unit.files.values()]
    try:
        with files.explained(units[0].split, error=CacheError):
            for done in forced:
                done.result()
            for file in full:
                file.publish()
            files.sync(set().union(*(unit.folders() for unit in units)))
            ledger.write({(unit.split, unit.unit): unit.entry() for unit in units})
    except BaseException:
        for file in full:
            file.discard()
        raise
