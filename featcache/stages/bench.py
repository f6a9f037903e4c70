"""`featcache bench`: measure reading, training and extraction, and explain the limits."""

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
from featcache.config import as_tree
from featcache.devices import resolve
from featcache.errors import ConfigError, option
from featcache.location import Location
from featcache.training.checks import refuse_missing_cls
from featcache.training.data import DataPool, TrainingData
from featcache.training.learners import learner_class
from featcache.training.options import DataOptions
from featcache.training.recipe import Recipe, parse_options

MOST_SECONDS = 40.0
"""Time limit; measurements that would not end before it are left out."""
LABELS = 1000
"""Most labels to draw; more do not make a step slower."""


def bench(
    cache: str | os.PathLike[str] | Location,
    *,
    objective: str = "twinturbo",
    options: Mapping[str, Any] | None = None,
    source: str | None = None,
    model: str | None = None,
    device: str = "auto",
) -> Bench:
    """Measure reading, training and extraction on this machine in less than a minute. Write nothing.

    `source` and `model` are by default those recorded in the cache; if they cannot be opened, extraction is
    not measured. Raises a FeatcacheError if the cache is not complete, or if a given source or model cannot
    be opened. It also does so if the objective has no steps or cannot be trained on this cache.
    """
    end = time.perf_counter() + MOST_SECONDS
    parsed, pool = parse_options(objective, as_tree(options)), DataPool(resolve(device))
    opened = CacheReader.open(Location.of(cache).path)
    data = pool.data(opened, parsed.data)
    refuse_missing_cls(opened, parsed)
    draw = data.draw(parsed.data, seed=0, num_labels=_labels(data))
    if not learner_class(objective).trains_steps:
        hint = f"choose another {option('objective')}, such as twinturbo"
        raise ConfigError("there is no step to measure", got=f"{objective}, which trains no steps", hint=hint)
    # First, because the other measurements bring the files into the page cache.
    cold = measure_cold(data)
    steps = StepBench(Trial(Recipe(objective, parsed, 0, data.device), draw, pool.replay(data, parsed.data)))
    extracting = extraction(opened, source, model, device)
    reading = measure_reading(data, parsed.data, loader=steps.loading(), cold=cold)
    training = steps.measure(reading, end)
    return Bench(opened.path, reading, training, extracting, _smaller(opened, parsed.data))


def _labels(data: TrainingData) -> int:
    """Return the number of labels to draw: all, but at most LABELS."""
    return max(1, min(LABELS, int(((data.train.labels >= 0) & data.usable).sum())))


def _smaller(cache: CacheReader, options: DataOptions) -> tuple[str, ...]:
    """List extraction options that would make the samples of this cache smaller."""
    layers = {layer.layer: layer for layer in cache.shapes.layers}
    layer = layers[cache.features(options.layer).layer]
    found = [] if cache.spec.dtype == "int8" else [option("dtype", "int8")]
    if layer.grid and layer.grid[0] * layer.grid[1] > 16:
        found.append(option("tokens", "grid:4x4"))
    return tuple(found)
