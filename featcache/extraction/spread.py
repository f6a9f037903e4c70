"""Execute a plan on the workers of a cluster: each of them writes the blocks that it is given."""

from __future__ import annotations

import functools
import os
import pickle
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

from featcache.cache.reader import CacheReader, is_written
from featcache.cache.storage import held, storage_at
from featcache.cluster import Cluster, Died, alone, is_wanted, tell
from featcache.errors import CacheError, ClusterError, LimitError, option
from featcache.extraction.block import BlockReport, extract_blocks
from featcache.extraction.opened import Opened
from featcache.extraction.plan import Block, ExtractionPlan
from featcache.extraction.probe import rows_that_kill
from featcache.extraction.walk import Clock
from featcache.progress import MakeProgress, Progress, silent

SHARES = 4
"""A worker is given this part of what each worker has left, so that all of them end at the same time."""
MOST_BLOCKS = 256
TRIES = 3
"""How often a block is given out again after a worker has met a limit of its machine."""
TELL_SECONDS = 1.0


@dataclass(frozen=True)
class Task:
    """Blocks of one split, which one worker computes one after the other."""

    plan: bytes
    """The plan, pickled."""
    folder: str
    """Working directory of the command, from which paths of the plan start."""
    blocks: tuple[Block, ...]
    tries: int = 0
    """How often a worker has died over it, or met a limit."""
    unreadable: Mapping[int, str] = field(default_factory=dict)
    """Reasons by row, for rows that killed the processes that read them."""

    @property
    def split(self) -> str:
        """Name of the split."""
        return self.blocks[0].split

    @property
    def name(self) -> str:
        """The task as locks name it."""
        return f"{self.split}.{self.blocks[0].rows.start}-of-cluster"

    @property
    def rows(self) -> int:
        """Number of rows."""
        return sum(len(block.rows) for block in self.blocks)


@dataclass(frozen=True)
class TaskReport:
    """The work of one task."""

    block: BlockReport
    worker: str
    """Address of the worker."""


def run_on(
    cluster: Cluster,
    plan: ExtractionPlan,
    blocks: Sequence[Block],
    progress: MakeProgress = silent,
    device: str = "auto",
) -> dict[str, BlockReport]:
    """Compute blocks on the workers of a cluster, while this process holds the lock of the cache.

    The bytes are those of `run_here`. A block whose worker dies is given to another one. A row that kills
    every process that reads it is marked as failed. `device` is the one of the workers.

    Raises what a worker raises, and ClusterError if workers die over a block again and again, or write to
    another disk. What is written by then stays.
    """
    shared = pickle.dumps(replace(plan, device=device, growth=None))
    waiting = _Waiting(shared, blocks)
    reports: dict[str, list[TaskReport]] = defaultdict(list)
    with progress("extract", sum(len(block.rows) for block in blocks)) as bar:
        finished = _Finished(bar)
        with cluster.hearing(finished.hear):
            for task, outcome in cluster.run(_compute, waiting.next):
                if isinstance(outcome, TaskReport):
                    finished.rows(task.name, task.rows)
                    reports[task.split].append(outcome)
                else:
                    waiting.again(cluster, plan, task, outcome)
    _require_written(plan, blocks)
    return {name: _merged(name, reports[name]) for name in plan.splits}


class _Waiting:
    """The tasks that are still to give out."""

    def __init__(self, plan: bytes, blocks: Sequence[Block]) -> None:
        self._plan = plan
        self._blocks = deque(blocks)
        self._again: deque[Task] = deque()

    def next(self, workers: int) -> Task | None:
        """Return the next task: first what failed, then a share of the blocks that grows smaller."""
        if self._again:
            return self._again.popleft()
        if not self._blocks:
            return None
        count = min(MOST_BLOCKS, max(1, len(self._blocks) // (SHARES * workers)))
        first = self._blocks.popleft()
        taken = [first]
        while len(taken) < count and self._blocks and self._blocks[0].split == first.split:
            taken.append(self._blocks.popleft())
        return Task(self._plan, os.getcwd(), tuple(taken))

    def again(self, cluster: Cluster, plan: ExtractionPlan, task: Task, cause: Died | LimitError) -> None:
        """Give out what is missing of a task again, block by block; find the rows that kill a worker."""
        if len(task.blocks) > 1:
            left = _missing(CacheReader.open(plan.written_at), task.blocks)
            self._again.extend(replace(task, blocks=(block,)) for block in left)
            return
        found = {} if isinstance(cause, LimitError) else _probed(cluster, task)
        if not found and task.tries == TRIES:
            raise cause if isinstance(cause, LimitError) else _hopeless(task, cause)
        known = {**task.unreadable, **found}
        self._again.append(replace(task, tries=task.tries + (not found), unreadable=known))


class _Finished:
    """Counts finished rows once, also of tasks that are done again."""

    def __init__(self, bar: Progress) -> None:
        self._bar, self._lock = bar, threading.Lock()
        self._rows: Counter[str] = Counter()

    def hear(self, message: Any) -> None:
        """Take a message of a worker: the name of a task, and the rows of it that are finished."""
        name, rows = message
        self.rows(str(name), int(rows))

    def rows(self, name: str, rows: int) -> None:
        """Take the number of finished rows of a task."""
        with self._lock:
            if (more := rows - self._rows[name]) > 0:
                self._rows[name] = rows
                self._bar.update(more)


class _Unwanted(Exception):
    """The coordinator of a task is gone."""


def _compute(task: Task) -> TaskReport | LimitError:
    """Compute the blocks of a task that are missing; runs on a worker."""
    from distributed import get_worker

    with alone(task.folder):
        plan, opened = _opened(task.plan)
        with held(storage_at(plan.out).lock_part(task.name, wait=True)):
            blocks = _missing(CacheReader.open(plan.written_at), task.blocks)
            try:
                report = BlockReport(task.split)
                if blocks:
                    report = extract_blocks(plan, blocks, opened, _Telling(task), task.unreadable)
                return TaskReport(report, get_worker().address)
            except LimitError as error:
                return error


def _probe(task: Task) -> dict[int, str]:
    """Return the rows of a task that kill a process that reads them, with reasons; runs on a worker."""
    with alone(task.folder):
        _, opened = _opened(task.plan)
        units = [unit for block in task.blocks for unit in block.units]
        source = opened.splits[task.split]
        return rows_that_kill(opened.dataset(source, units, 1, unreadable=task.unreadable))


class _Telling:
    """Tells the coordinator how many rows of a task are finished, at most once a second."""

    def __init__(self, task: Task) -> None:
        self._name, self._rows, self._told = task.name, 0, 0.0

    def __call__(self, rows: int) -> None:
        self._rows += rows
        if time.monotonic() - self._told > TELL_SECONDS:
            self._told = time.monotonic()
            if not is_wanted():
                raise _Unwanted(self._name)
            tell([self._name, self._rows])


@functools.lru_cache(maxsize=1)
def _opened(plan: bytes) -> tuple[ExtractionPlan, Opened]:
    """Open the source and load the model, once in a process."""
    found: ExtractionPlan = pickle.loads(plan)
    return found, found.open()


def _missing(cache: CacheReader, blocks: Sequence[Block]) -> list[Block]:
    """Return blocks with those of their units that are not written."""
    split = cache.split(blocks[0].split)
    left = [
        (block, tuple(unit for unit in block.units if not is_written(split.storage, unit)))
        for block in blocks
    ]
    return [replace(block, units=units) for block, units in left if units]


def _probed(cluster: Cluster, task: Task) -> dict[int, str]:
    """Return what `_probe` finds; nothing if its worker dies too."""
    once = iter([task])
    (probed,) = cluster.run(_probe, lambda workers: next(once, None))
    return {} if isinstance(probed.outcome, Died) else probed.outcome


def _require_written(plan: ExtractionPlan, blocks: Sequence[Block]) -> None:
    """Raise CacheError unless the blocks are where this process looks for them."""
    for name, own in groupby(blocks, key=lambda block: block.split):
        left = _missing(CacheReader.open(plan.written_at), list(own))
        if left:
            raise CacheError(
                f"workers have computed rows of `{name}` that are not in {plan.written_at}",
                got=f"{len(left)} blocks missing",
                expected="a file system that this machine and all workers share",
                hint=f"choose {option('out')} on it, and repeat the command",
            )


def _merged(split: str, reports: Sequence[TaskReport]) -> BlockReport:
    """Return the report of a split; its seconds are those of an average worker."""
    blocks, clock = [report.block for report in reports], Clock()
    for name in vars(clock):
        setattr(clock, name, sum(getattr(block.clock, name) for block in blocks))
    limited = [block.at_once for block in blocks if block.at_once]
    rates = _rates(reports)
    seconds = sum(block.seconds for block in blocks) / max(1, len(rates))
    views = sum(block.views for block in blocks)
    return BlockReport(split, views, seconds, clock, min(limited, default=None), rates)


def _rates(reports: Sequence[TaskReport]) -> dict[str, float]:
    """Return views a second, by worker."""
    views: Counter[str] = Counter()
    seconds: dict[str, float] = defaultdict(float)
    for report in reports:
        views[report.worker] += report.block.views
        seconds[report.worker] += report.block.seconds
    return {worker: views[worker] / seconds[worker] for worker in sorted(views) if views[worker]}


def _hopeless(task: Task, died: Died) -> ClusterError:
    rows = task.blocks[0].rows
    return ClusterError(
        f"workers die over rows {rows.start} to {rows.stop - 1} of `{task.split}`",
        got=f"{died.reason}; each sample can be read by itself",
        expected=f"memory for the model and {option('batch_size')} views in each worker",
        hint=f"fewer {option('workers')} or a smaller {option('num_workers')}; a rerun continues",
    )
