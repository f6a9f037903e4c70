"""Measure how fast a machine reads a cache: from memory, from files in memory, and from the disk."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from featcache.bench.explain import Reading
from featcache.bench.turns import SECONDS, turns
from featcache.cache.reader import CacheReader
from featcache.loading.plan import ReadPlan
from featcache.loading.store import Column, available_ram, choose_residency
from featcache.training.data import TrainingData
from featcache.training.options import DataOptions

POOL_BYTES, ROWS = 256 << 20, 256
"""Bytes of the rows that reading is measured on, and rows in a batch."""


def measure_reading(
    data: TrainingData, options: DataOptions, *, loader: float, cold: float | None
) -> Reading:
    """Measure shuffled reading; `loader` and `cold` are rates measured before, in samples/s."""
    column, rows = tokens_of(data), _pool(data)
    held = column.gather(rows, 0, column.buffer(len(rows), pinned=False))
    plan = ReadPlan(rows, min(ROWS, len(rows)), seed=0)
    buffer = column.buffer(plan.batch_size, pinned=False)
    steps = range(max(1, min(len(rows) // plan.batch_size, 32)))

    def memory() -> int:
        for step in steps:
            torch.index_select(held, 0, torch.from_numpy(plan.batch(step)), out=buffer)
        return len(steps) * plan.batch_size

    def warm() -> int:
        for step in steps:
            column.gather(plan.batch(step), 0, buffer)
        return len(steps) * plan.batch_size

    rates, needed = turns({"memory": memory, "warm": warm}), data.train_store.nbytes
    where = options.residency
    residency = choose_residency(needed, data.device) if where == "auto" else where
    return Reading(
        **rates, cold=cold, loader=loader, nbytes=needed, free=available_ram(), residency=residency
    )


def measure_cold(data: TrainingData) -> float | None:
    """Measure random reads from disk in samples/s, after dropping the files from the page cache.

    Return None if the system cannot drop them.
    """
    array = CacheReader.open(data.cache.path).split(data.train.name).array(tokens_of(data).array.path.name)
    column = Column(array)
    if not _drop_pages(array.path):
        return None
    plan = ReadPlan(np.arange(array.shape[0]), min(ROWS, array.shape[0]), seed=1)
    buffer, done, before = column.buffer(plan.batch_size, pinned=False), 0, _blocks_read()
    start = time.perf_counter()
    for step in range(array.shape[0] // plan.batch_size):
        column.gather(plan.batch(step), 0, buffer)
        done += plan.batch_size
        if time.perf_counter() - start > SECONDS:
            break
    seconds = time.perf_counter() - start
    return done / seconds if _blocks_read() > before else None


def tokens_of(data: TrainingData) -> Column:
    """Return the column of the training tokens."""
    return data.train_store.columns["tokens"]


def _drop_pages(folder: Path) -> bool:
    """Ask the system to drop files from the page cache; return False if it has no such call."""
    if not hasattr(os, "posix_fadvise"):
        return False
    for path in filter(Path.is_file, folder.rglob("*")):
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return True


def _blocks_read() -> int:
    """Return the number of blocks that all threads of this process have read from disk."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_inblock


def _pool(data: TrainingData) -> NDArray[np.int64]:
    """Return the numbers of the first rows, as many as fit into memory twice."""
    array = tokens_of(data).array
    most = min(POOL_BYTES, available_ram() // 4 or POOL_BYTES) // max(1, array.layout.row_bytes)
    return np.arange(min(array.shape[0], max(1, most)))
