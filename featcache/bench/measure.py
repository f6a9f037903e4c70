"""Measure the stages of an extraction on a few batches: reading and decoding, and the forward pass."""

from __future__ import annotations

import itertools
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from featcache.bench.explain import Extraction
from featcache.bench.turns import SECONDS, turns
from featcache.cache.layout import Unit
from featcache.cache.reader import CacheReader
from featcache.encoders.base import Inputs
from featcache.errors import FeatcacheError, SourceError, option
from featcache.extraction.feed import ViewDataset, auto_workers
from featcache.extraction.forward import Forward
from featcache.extraction.opened import Opened
from featcache.extraction.options import ExtractOptions

BATCHES, VIEWS = 4, {"cpu": 16, "cuda": 64}
"""Batches to measure, and views in a batch; fewer on a CPU, where large models are slow."""


def extraction(cache: CacheReader, source: str | None, model: str | None, device: str) -> Extraction | str:
    """Measure an extraction with the source and the model of a cache, or return why it cannot be measured.

    Raises a FeatcacheError if a given `source` or `model` cannot be opened.
    """
    made = cache.provenance
    found = source or made.get("source"), model or made.get("model")
    if not all(found):
        return (
            f"the cache does not record its source and model; give {option('source')} and {option('model')}."
        )
    try:
        opened = Opened.of(str(found[0]), str(found[1]), ExtractOptions.recorded(cache), device)
    except FeatcacheError as error:
        if source or model:
            raise
        return f"{error.what} ({error.got}); give {option('source')} and {option('model')}."
    forward, every = opened.forward, [Unit(0, 0, 0, len(opened.first))]
    dataset = opened.dataset(opened.first, every, VIEWS[forward.device.type])
    decode, batches = _decoded(dataset)
    runs = {"forward": _computing(forward, batches)}
    if forward.amp == "float32":
        runs[option("amp", "bfloat16")] = _computing(replace(forward, amp="bfloat16"), batches)
    rates = turns(runs)
    return Extraction(
        str(found[1]),
        decode,
        rates.pop("forward"),
        readers=max(1, auto_workers(len(dataset.source) * len(dataset.view_names))),
        cores=os.cpu_count() or 1,
        device=forward.device.type,
        tried=rates,
    )


def _decoded(dataset: ViewDataset) -> tuple[float, list[Inputs]]:
    """Measure the views/s of one reader, and return its batches; the first batch is a warm-up."""
    batches: list[Inputs] = []
    rates: list[float] = []
    start = time.perf_counter()
    for number in range(len(dataset)):
        loaded = dataset[number]
        if isinstance(loaded, FeatcacheError):
            raise loaded
        if loaded.inputs:
            batches.append(loaded.inputs)
            rates.append(len(loaded.rows) * len(dataset.view_names) / loaded.seconds)
        if len(batches) == BATCHES or time.perf_counter() - start > SECONDS:
            break
    if not batches:
        raise SourceError("no sample at the beginning of the source can be read", got=dataset.source.ids[0])
    return statistics.median(rates[1:] or rates), batches


def _computing(forward: Forward, batches: Sequence[Inputs]) -> Callable[[], int]:
    turn = itertools.cycle(batches)

    def run() -> int:
        inputs = next(turn)
        forward(inputs)
        if forward.device.type == "cuda":
            torch.cuda.synchronize(forward.device)
        return len(next(iter(inputs.values())))

    return run
