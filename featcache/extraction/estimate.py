"""Bytes and seconds of an extraction before it starts."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from featcache.cache.schema import view_bytes
from featcache.cache.spec import Shapes
from featcache.errors import CacheError, option
from featcache.extraction.feed import ViewDataset, feed
from featcache.extraction.forward import Forward
from featcache.extraction.walk import Clock
from featcache.files import free_bytes, human_bytes
from featcache.sources.base import Source, digest_samples, limit
from featcache.specs import StoredType

PILOT_SECONDS = 5.0
PILOT_BATCHES = range(3, 33)
"""Fewer are not precise; more take time and gain nothing."""
DIGEST_ROWS = 1024
"""Samples that the source's digest is timed on."""


@dataclass(frozen=True)
class Estimate:
    """Rows, views, bytes on disk and seconds of one split."""

    rows: int
    views: int
    nbytes: int
    seconds: float


def cache_bytes(shapes: Shapes, rows: int, views: int, dtype: StoredType) -> int:
    """Return the bytes of the arrays of one split; shard indices and metadata add less than a percent."""
    return rows * (views * (view_bytes(shapes, dtype) + 1) + 8)


def pilot_rows(dataset: ViewDataset, forward: Forward) -> int:
    """Return the number of rows to try: whole batches for about five seconds.

    A first batch is timed for that, which also warms everything up.
    """
    first = ViewDataset(dataset.source, dataset.transform, dataset.view_names, dataset.batches[:1])
    start = time.perf_counter()
    for loaded in feed(first, 0, forward.device):
        if loaded.inputs:
            forward(loaded.inputs)
    count = int(PILOT_SECONDS / (time.perf_counter() - start))
    return dataset.batches[: min(max(count, PILOT_BATCHES.start), PILOT_BATCHES.stop)][-1].stop


def seconds(clock: Clock, readers: int, times: float) -> float:
    """Predict the seconds of a walk that is `times` as long as the one of `clock`, with `readers` readers.

    The stages run side by side, so only the slowest counts. The wait for the first batch and the writing
    of the last one come on top.

    >>> seconds(Clock(first=1, read=6, forward=2, write=1, drain=0.5), readers=1, times=10)
    61.5
    >>> seconds(Clock(first=1, read=6, forward=2, write=1, drain=0.5), readers=4, times=10)
    21.5
    """
    return clock.first + times * max(clock.read / readers, clock.forward, clock.write) + clock.drain


def digest_seconds(source: Source) -> float:
    """Predict the seconds that the digest of the whole source takes, from its first thousand samples."""
    start, part = time.perf_counter(), limit(source, DIGEST_ROWS)
    digest_samples(part)
    return (time.perf_counter() - start) * len(source) / len(part)


def require_room(path: Path, nbytes: int, smaller: str | None = None) -> None:
    """Raise CacheError when the disk that holds `path` has less than `nbytes` free.

    `smaller` says how to make the cache smaller; by default, with the options of an extraction.
    """
    free = free_bytes(path)
    if nbytes > free:
        smaller = smaller or f"fewer {option('views')}, {option('tokens', 'grid:4x4')}, or {option('limit')}"
        raise CacheError(
            f"the disk cannot hold the cache {path}",
            got=f"{human_bytes(free)} free",
            expected=f"{human_bytes(nbytes)}",
            hint=f"choose another disk ({option('out')}), {smaller}",
        )
