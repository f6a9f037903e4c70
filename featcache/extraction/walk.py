"""The walk over blocks of one split: reading, forward pass and writing, all at the same time."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from types import TracebackType
from typing import Any, Self

import numpy as np

from featcache.cache.layout import Unit
from featcache.cache.writer import SplitWriter, UnitWriter
from featcache.extraction.feed import Loaded
from featcache.extraction.forward import Arrays, Forward, Running, empty_views, split_views

READ_AHEAD = 2
"""Batches that may wait for the writer; more would only take memory."""
IDLE = 0.1
"""The forward pass is not the bottleneck if it is idle for a larger fraction of the time."""


@dataclass
class Clock:
    """Seconds by stage. Workers or a thread read, and a thread writes, during the forward pass."""

    first: float = 0.0
    """Until the first batch arrived, including the start of workers."""
    read: float = 0.0
    wait: float = 0.0
    """Time that the forward pass waited for samples, including the first batch."""
    forward: float = 0.0
    write: float = 0.0
    stall: float = 0.0
    """Time that the forward pass waited for the writer."""
    drain: float = 0.0
    """Time that the writer needed after the last batch."""

    def bound_by(self) -> str:
        """Return the slowest stage: the forward pass, unless it was idle for a tenth of the time.

        If it is idle longer, the stage it waits for is the slowest, even if the wait is short: a stage that
        is 10 % slower makes it wait 10 % of the time.
        """
        wait, stall = self.wait - self.first, self.stall
        if wait + stall < IDLE * (self.forward + wait + stall):
            return "the forward pass"
        return "reading and preprocessing" if wait > stall else "writing"


def plan_batches(units: Iterable[Unit], views: int, batch_size: int) -> Iterator[range]:
    """Yield the rows to read at a time: at most `batch_size` views, and together the batches of the model.

    A batch of the model is `batch_size` rows of one view, never across the border of a block. The last bits
    of values depend on the batch, and this one does not depend on which other views there are.

    >>> list(plan_batches([Unit(0, 1, 0, 3), Unit(2, 0, 6, 8)], views=2, batch_size=4))
    [range(0, 2), range(2, 3), range(6, 8)]
    """
    step = max(1, batch_size // views)
    for (start, stop), _ in groupby(units, key=lambda unit: (unit.start, unit.stop)):
        for first in range(start, stop, batch_size):
            last = min(first + batch_size, stop)
            for begin in range(first, last, step):
                yield range(begin, min(begin + step, last))


@dataclass(frozen=True)
class Walk:
    """Some views of some blocks of one split, which a walk writes."""

    split: SplitWriter
    units: Sequence[Unit]
    """Of the same views in each block."""
    batch_size: int
    """Rows of one view in a batch of the model."""

    @property
    def views(self) -> list[int]:
        """The views, by number."""
        return sorted({unit.view for unit in self.units})

    def batches(self, arriving: Iterable[Loaded]) -> Iterator[Loaded]:
        """Join what was read at a time to batches of the model, in all views."""
        parts: list[Loaded] = []
        stops = {unit.stop for unit in self.units}
        for loaded in arriving:
            parts.append(loaded)
            stop = loaded.rows.stop
            if stop in stops or stop - parts[0].rows.start == self.batch_size:
                yield Loaded.joined(parts, len(self.views))
                parts = []


def walk(
    batches: Iterable[Loaded], forward: Forward, to: Walk, clock: Clock, advance: Callable[[int], object]
) -> None:
    """Compute every batch and write its views; calls `advance` with counts of finished samples."""
    # A GPU gets the next batch before the last one has returned; on the CPU there is nothing to gain.
    ahead, under_way = int(forward.device.type == "cuda"), deque[tuple[Loaded, Running | None]]()
    views = len(to.views)

    def finish(loaded: Loaded, running: Running | None) -> None:
        start = time.perf_counter()
        arrays = _arrays(loaded, running, to.split, views)
        clock.forward += time.perf_counter() - start
        start = time.perf_counter()
        writer.put(loaded, arrays)
        clock.stall += time.perf_counter() - start
        advance(len(loaded.rows))

    with _WriterThread(to, clock) as writer:
        arriving = to.batches(batches)
        while (loaded := _timed(arriving, clock)) is not None:
            start = time.perf_counter()
            under_way.append((loaded, forward.start(loaded.inputs, views) if loaded.inputs else None))
            clock.forward += time.perf_counter() - start
            clock.read += loaded.seconds
            if len(under_way) > ahead:
                finish(*under_way.popleft())
        while under_way:
            finish(*under_way.popleft())


def _arrays(loaded: Loaded, running: Running | None, split: SplitWriter, views: int) -> list[Arrays]:
    rows = loaded.rows
    if running is None:
        return empty_views(split.shapes, views, len(rows))
    readable = np.array([i for i, row in enumerate(rows) if row not in loaded.failed], np.int64)
    return split_views(running.result(), views, len(rows), readable)


def _timed(arriving: Iterator[Loaded], clock: Clock) -> Loaded | None:
    start = time.perf_counter()
    loaded = next(arriving, None)
    waited = time.perf_counter() - start
    clock.first = clock.first or waited
    clock.wait += waited
    return loaded


class _WriterThread:
    """Appends batches to the units of a block and commits them; the next `put` raises its errors."""

    def __init__(self, to: Walk, clock: Clock) -> None:
        self._split, self._views, self._clock = to.split, to.views, clock
        self._units = {(unit.start, unit.view): unit for unit in to.units}
        self._stops = {(unit.view, unit.stop) for unit in to.units}
        self._open: dict[int, UnitWriter] = {}
        self._queue: queue.Queue[Any] = queue.Queue(READ_AHEAD)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="featcache-writer", daemon=True)

    def put(self, loaded: Loaded, arrays: list[Arrays]) -> None:
        """Pass one batch to the thread; waits while the writer is behind."""
        if self._error:
            raise self._error
        self._queue.put((loaded.rows, arrays, loaded.failed))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        start = time.perf_counter()
        self._queue.put(None)
        self._thread.join()
        if not (self._error or error):
            self._split.wait()
        self._clock.drain = time.perf_counter() - start
        for unit in self._open.values():
            unit.abort()
        if self._error and error is None:
            raise self._error

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            if self._error:
                continue  # emptied, so that `put` never waits for a writer that has stopped
            start = time.perf_counter()
            try:
                self._write(*item)
            except BaseException as error:
                self._error = error
            self._clock.write += time.perf_counter() - start

    def _write(self, rows: range, arrays: list[Arrays], failed: dict[int, str]) -> None:
        for view, values in zip(self._views, arrays, strict=True):
            if (unit := self._units.get((rows.start, view))) is not None:
                self._open[view] = self._split.begin(unit)
            self._open[view].append(values.tokens, values.pooled, values.mask, failed)
            if (view, rows.stop) in self._stops:
                self._open[view].commit()
                del self._open[view]
