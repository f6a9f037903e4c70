"""Compare whole shards with the checksums in the ledger, each once, beside those who read from them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

from featcache.cache import ledger
from featcache.cache.layout import Unit
from featcache.cache.records import FileRecord, damaged
from featcache.cache.storage import Stamp, Storage


class ShardChecks:
    """Checks the shards of a split in a thread, in the order they were asked for.

    The thread ends when nothing waits. Safe to use from several threads; a pickled copy begins anew.
    """

    def __init__(self, split: Storage) -> None:
        self._split = split
        self._asked: dict[str, tuple[Unit, Stamp | None]] = {}
        self._waiting: queue.SimpleQueue[tuple[str, Unit]] = queue.SimpleQueue()
        self._state = threading.Condition()
        self._open = 0
        self._error: BaseException | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._split,)

    def ask(self, key: str, unit: Unit) -> None:
        """Have a file of a unit checked, unless it has been; return at once."""
        with self._state:
            if key in self._asked:
                return
            self._check(key, unit)

    def raise_found(self) -> None:
        """Raise CacheError if a shard that was checked is damaged; return at once."""
        if self._error is not None:
            raise self._error

    def finish(self) -> None:
        """Wait until every shard asked for is checked, as it is now; raise CacheError if one is damaged."""
        with self._state:
            for key, (unit, before) in self._asked.items():
                now = self._split.stamp(key)
                # Another file of that name does not matter to those who read from the first one.
                if now and before and now != before and now.file == before.file:
                    self._check(key, unit)
            self._state.wait_for(lambda: self._open == 0)
        self.raise_found()

    def _check(self, key: str, unit: Unit) -> None:
        self._asked[key] = unit, self._split.stamp(key)
        self._waiting.put((key, unit))
        self._open += 1
        if self._open == 1:
            threading.Thread(target=self._run, name="featcache-checks", daemon=True).start()

    def _run(self) -> None:
        while True:
            key, unit = self._waiting.get()
            try:
                if self._error is None:
                    require_whole(self._split, key, unit)
            except BaseException as error:  # those who read from the split raise it
                self._error = error
            with self._state:
                self._open -= 1
                self._state.notify_all()
                if self._open == 0:
                    return


def require_whole(
    split: Storage, key: str, unit: Unit, advance: Callable[[int], object] = lambda read: None
) -> None:
    """Raise CacheError, naming file and rows, if a file of a unit is not the one that was committed.

    Calls `advance` with numbers of bytes as they are read.
    """
    entry, found = ledger.read(split, unit), split.checksum(key, advance)
    record = None if entry is None else entry.files.get(key)
    if record is None or found is None or FileRecord(bytes=found[0], crc32c=found[1]) != record:
        got = "no such file" if found is None else FileRecord(bytes=found[0], crc32c=found[1])
        rows = f"rows {unit.start} to {unit.stop - 1}"
        raise damaged(f"{split}/{key}", got, record or "an entry of the ledger", rows)
