"""`featcache bench`: measure how fast this machine reads a cache and trains on it, and explain the limits."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

from featcache.bench.measure import extraction
from featcache.bench.reading import measure_cold, measure_reading
from featcache.bench.summary import Bench
from featcache.bench.training import StepBench, Trial
from featcache.cache.reader import CacheReader
from featcache.devices import resolve
from featcache.errors import ConfigError
from featcache.location import Location
from featcache.training.checks import refuse_missing_cls
from featcache.training.data import DataPool, TrainingData
from featcache.training.learners import learner_class
from featcache.training.options import DataOptions
from featcache.training.recipe import Recipe, parse_options

MOST_SECONDS = 40.0
"""Measurements that would start later, or not end by then, are left out."""
LABELS = 1000
"""More labels make no step slower."""


def bench(
    cache: str | os.PathLike[str] | Location,
    *,
    objective: str = "twinturbo",
    options: Mapping[str, Any] | None = None,
    source: str | None = None,
    model: str | None = None,
    device: str = "auto",
) -> Bench:
    """Measure reading, training and extraction on this machine, in less than a minute; writes nothing.

    `source` and `model` are by default those recorded in the cache; extraction is left out where these do not
    open (any more). Raises a FeatcacheError where there is no complete cache, the objective trains no steps
    or cannot be trained on this cache, or a given source or model does not open.
    """
    end = time.perf_counter() + MOST_SECONDS
    parsed, pool = parse_options(objective, options or {}), DataPool(resolve(device))
    opened = CacheReader.open(Location.of(cache).path)
    data = pool.data(opened, parsed.data)
    refuse_missing_cls(opened, parsed)
    draw = data.draw(parsed.data, seed=0, num_labels=_labels(data))
    if not learner_class(objective).trains_steps:
        hint = "choose an objective that does, such as twinturbo"
        raise ConfigError("there is no step to measure", got=f"{objective}, which trains no steps", hint=hint)
    # From disk first, before anything holds the files in memory.
    cold = measure_cold(data)
    steps = StepBench(Trial(Recipe(objective, parsed, 0, data.device), draw, pool.replay(data, parsed.data)))
    extracting = extraction(opened, source, model, device)
    reading = measure_reading(data, parsed.data, loader=steps.loading(), cold=cold)
    training = steps.measure(reading, end)
    return Bench(opened.path, reading, training, extracting, _smaller(opened, parsed.data))


def _labels(data: TrainingData) -> int:
    """Use all labels, up to a thousand."""
    return max(1, min(LABELS, int(((data.train.labels >= 0) & data.usable).sum())))


def _smaller(cache: CacheReader, options: DataOptions) -> tuple[str, ...]:
    """Name options of an extraction that make each sample smaller than in this cache."""
    layers = {layer.layer: layer for layer in cache.shapes.layers}
    layer = layers[cache.features(options.layer).layer]
    found = [] if cache.spec.dtype == "int8" else ["--dtype int8"]
    if layer.grid and layer.grid[0] * layer.grid[1] > 16:
        found.append("--tokens grid:4x4")
    return tuple(found)
