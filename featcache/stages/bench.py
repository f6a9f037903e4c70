"""`featcache bench`: how fast this machine reads this cache and trains on it, and what it waits for."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from featcache.bench.explain import (
    Extraction,
    Reading,
    Training,
    disk_words,
    extraction_words,
    rounded,
    training_words,
)
from featcache.bench.measure import SECONDS, Trainer, extraction, turns
from featcache.cache.reader import WRITTEN, CacheReader
from featcache.devices import resolve
from featcache.errors import ConfigError
from featcache.loading.plan import ReadPlan
from featcache.loading.store import Column, available_ram, choose
from featcache.objectives.base import Probe, Task
from featcache.stages.train import Job, TrainRequest, parse_options

MOST_SECONDS = 40.0
"""What would begin later, or not end by then, is left out."""
POOL_BYTES, ROWS = 256 << 20, 256
"""Rows that reading is measured on, in bytes, and how many are read at a time."""
LABELS = 1000
"""More would not make a step any slower."""


@dataclass(frozen=True)
class Bench:
    """What was measured; `describe` says it in words."""

    path: Path
    reading: Reading
    training: Training
    extraction: Extraction | str
    """Or why it could not be measured."""
    smaller: tuple[str, ...]
    """Options of an extraction that would shrink each sample of this cache."""

    def describe(self) -> str:
        """A table of rates, and what they mean."""
        rows = self._rows()
        width, digits = max(len(name) for name, *_ in rows), max(len(rounded(rate)) for _, rate, _ in rows)
        lines = [f"{name:{width}}  {rounded(rate):>{digits}} {unit}/s" for name, rate, unit in rows]
        words = [training_words(self.reading, self.training, self.smaller), disk_words(self.reading)]
        extraction = self.extraction
        words.append(
            f"Extraction was not measured: {extraction}"
            if isinstance(extraction, str)
            else extraction_words(extraction)
        )
        return "\n".join([*lines, "", *words])

    def _rows(self) -> list[tuple[str, float, str]]:
        reading, training, extraction = self.reading, self.training, self.extraction
        rows: list[tuple[str, float | None, str]] = [
            ("memory itself (index_select of tokens)", reading.memory, "samples"),
            ("the cache's files, in memory", reading.warm, "samples"),
            ("the cache's files, from disk", reading.cold, "samples"),
            ("the loader's batches", reading.loader, "samples"),
            (f"a step of {training.objective} alone", training.step, "samples"),
            *((f"  with {option}", rate, "samples") for option, rate in training.tried.items()),
            ("training from files", training.streamed, "samples"),
            (f"training from residency ({reading.residency})", training.resident, "samples"),
        ]
        if not isinstance(extraction, str):
            rows += [
                ("reading and decoding, one reader", extraction.decode, "views"),
                (f"the forward pass of {extraction.model}", extraction.forward, "views"),
                *((f"  with {option}", rate, "views") for option, rate in extraction.tried.items()),
            ]
        return [(name, rate, unit) for name, rate, unit in rows if rate is not None]


def bench(
    cache: Path,
    *,
    objective: str = "twinturbo",
    options: Mapping[str, Any] | None = None,
    source: str | None = None,
    model: str | None = None,
    device: str = "auto",
) -> Bench:
    """Measure reading, training and extraction on this machine, in less than a minute; writes nothing.

    `source` and `model` are by default those that the cache says it was made from; where these cannot be
    opened (any more), extraction is left out. Raises a FeatcacheError where there is no whole cache, the
    objective trains no steps or cannot be trained on this cache, or a source or model that is given does not
    open.
    """
    end = time.perf_counter() + MOST_SECONDS
    job = Job(_request(cache, objective, options), resolve(device), lambda line: None)
    task = job.task()
    if issubclass(job.kind, Probe) or not isinstance(task, Task):
        hint = "choose an objective that does, such as twinturbo"
        raise ConfigError("there is no step to measure", got=f"{objective}, which trains no steps", hint=hint)
    # From disk first, before anything holds the files in memory.
    cold = _cold(job)
    trainer = Trainer(job, task)
    extracting = extraction(job.cache, source, model, device)
    reading = _reading(job, trainer, cold)
    return Bench(cache, reading, trainer.measure(reading, end), extracting, _smaller(job))


def _request(cache: Path, objective: str, options: Mapping[str, Any] | None) -> TrainRequest:
    """A training on as many labels as there are, up to a thousand."""
    name, found = parse_options(objective, options or {}).data.train, CacheReader.open(cache)
    labelled = 1
    if name in found.split_names:
        split = found.split(name)
        labelled = int(((split.labels >= 0) & (split.status == WRITTEN).all(1)).sum())
    return TrainRequest(cache, objective, num_labels=max(1, min(LABELS, labelled)), options=options)


def _reading(job: Job, trainer: Trainer, cold: float | None) -> Reading:
    column, rows = _tokens(job), _pool(job)
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

    rates = turns({"memory": memory, "warm": warm})
    wanted = job.options.data.residency
    needed = job.train_store.nbytes
    where = choose(needed, job.device) if wanted == "auto" else wanted
    return Reading(
        **rates, cold=cold, loader=trainer.loading(), nbytes=needed, free=available_ram(), residency=where
    )


def _cold(job: Job) -> float | None:
    """Samples a second of rows in random order, none of them twice, that the system had to let go of."""
    array = CacheReader.open(job.cache.path).split(job.train_split.name).array(_tokens(job).array.path.name)
    column = Column(array)
    if not _let_go(array.path):
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


def _let_go(folder: Path) -> bool:
    """Ask the system to drop what it holds of the files in memory: harmless, and not possible everywhere."""
    if not hasattr(os, "posix_fadvise"):
        return False
    for path in filter(Path.is_file, folder.rglob("*")):
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return True


def _blocks_read() -> int:
    """Blocks that this process has had read from disk so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_inblock


def _tokens(job: Job) -> Column:
    return job.train_store.columns["tokens"]


def _pool(job: Job) -> NDArray[np.int64]:
    """The first rows, as many as may be held in memory beside their copy."""
    array = _tokens(job).array
    most = min(POOL_BYTES, available_ram() // 4 or POOL_BYTES) // max(1, array.layout.row_bytes)
    return np.arange(min(array.shape[0], max(1, most)))


def _smaller(job: Job) -> tuple[str, ...]:
    """Options of an extraction that make each sample smaller than it is in this cache."""
    spec, layers = job.cache.spec, {layer.layer: layer for layer in job.cache.shapes.layers}
    layer = layers[job.cache.features(job.options.data.layer).layer]
    found = [] if spec.dtype == "int8" else ["--dtype int8"]
    if layer.grid and layer.grid[0] * layer.grid[1] > 16:
        found.append("--tokens grid:4x4")
    return tuple(found)
