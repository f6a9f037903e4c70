"""The walk of one split: samples -> views -> tokens -> shards, all three steps side by side."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from types import TracebackType
from typing import Any, Self

import numpy as np

from featcache.cache.layout import Unit
from featcache.cache.writer import SplitWriter, UnitWriter
from featcache.extraction.feed import Loaded
from featcache.extraction.forward import Arrays, Forward, empty_views, split_views

READ_AHEAD = 2
"""Batches that may wait for the writer; more would only hold memory."""


@dataclass
class Clock:
    """Seconds by stage. Reading happens in the workers and writing in a thread, beside the forward pass."""

    read: float = 0.0
    wait: float = 0.0
    """The forward pass waited this long for samples."""
    forward: float = 0.0
    write: float = 0.0
    stall: float = 0.0
    """The forward pass waited this long for the writer."""

    def bound_by(self) -> str:
        """The stage that set the pace."""
        stages = {
            "reading and preprocessing": self.wait,
            "the forward pass": self.forward,
            "writing": self.stall,
        }
        return max(stages, key=lambda name: stages[name])


def plan_batches(units: Iterable[Unit], views: int, batch_size: int) -> Iterator[range]:
    """The rows of each batch: at most `batch_size` views of them, none across a block's border.

    A block with any unit missing is computed again in all its views: the last bits of a sample's values
    depend on the batch it is in, so only the same batches give the same bytes after a kill.

    >>> list(plan_batches([Unit(0, 1, 0, 3), Unit(2, 0, 6, 8)], views=2, batch_size=4))
    [range(0, 2), range(2, 3), range(6, 8)]
    """
    step = max(1, batch_size // views)
    for (start, stop), _ in groupby(units, key=lambda unit: (unit.start, unit.stop)):
        for first in range(start, stop, step):
            yield range(first, min(first + step, stop))


def walk(
    batches: Iterable[Loaded],
    forward: Forward,
    split: SplitWriter,
    units: list[Unit],
    clock: Clock,
    advance: Callable[[int], object],
) -> None:
    """Take every batch through the model into the split; `advance` is told how many samples are done."""
    with _WriterThread(split, units, clock) as writer:
        arriving = iter(batches)
        while (loaded := _timed(arriving, clock)) is not None:
            start = time.perf_counter()
            arrays = _encode(loaded, forward, split)
            clock.forward += time.perf_counter() - start
            clock.read += loaded.seconds
            start = time.perf_counter()
            writer.put(loaded, arrays)
            clock.stall += time.perf_counter() - start
            advance(len(loaded.rows))
    split.wait()


def _encode(loaded: Loaded, forward: Forward, split: SplitWriter) -> list[Arrays]:
    rows, views = loaded.rows, len(split.spec.views.names())
    if not loaded.inputs:
        return empty_views(split.shapes, views, len(rows))
    readable = np.array([i for i, row in enumerate(rows) if row not in loaded.failed], np.int64)
    return split_views(forward(loaded.inputs), views, len(rows), readable)


def _timed(arriving: Iterator[Loaded], clock: Clock) -> Loaded | None:
    start = time.perf_counter()
    loaded = next(arriving, None)
    clock.wait += time.perf_counter() - start
    return loaded


class _WriterThread:
    """Appends batches to the units of a block and commits them; its errors surface at the next `put`."""

    def __init__(self, split: SplitWriter, units: list[Unit], clock: Clock) -> None:
        self._split, self._clock = split, clock
        self._units = {(unit.start, unit.view): unit for unit in units}
        self._stops = {(unit.view, unit.stop) for unit in units}
        self._open: dict[int, UnitWriter] = {}
        self._queue: queue.Queue[Any] = queue.Queue(READ_AHEAD)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="featcache-writer", daemon=True)

    def put(self, loaded: Loaded, arrays: list[Arrays]) -> None:
        """Hand over one batch; waits while the writer is behind."""
        if self._error:
            raise self._error
        self._queue.put((loaded.rows, arrays, loaded.failed))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._queue.put(None)
        self._thread.join()
        for unit in self._open.values():
            unit.abort()
        if self._error and error is None:
            raise self._error

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            if self._error:
                continue  # drained, so that `put` never blocks on a writer that has stopped
            start = time.perf_counter()
            try:
                self._write(*item)
            except BaseException as error:
                self._error = error
            self._clock.write += time.perf_counter() - start

    def _write(self, rows: range, arrays: list[Arrays], failed: dict[int, str]) -> None:
        for view, values in enumerate(arrays):
            if (unit := self._units.get((rows.start, view))) is not None:
                self._open[view] = self._split.begin(unit)
            if view not in self._open:
                continue  # this view of the block is there already
            self._open[view].append(values.tokens, values.pooled, values.mask, failed)
            if (view, rows.stop) in self._stops:
                self._open[view].commit()
                del self._open[view]
