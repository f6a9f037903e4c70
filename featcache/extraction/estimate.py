"""What an extraction will cost before it starts: bytes from the shapes, time from a short timed pilot."""

from __future__ import annotations

import itertools
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from featcache.cache.spec import Shapes, ValueType
from featcache.errors import CacheError
from featcache.extraction.feed import Rows, ViewDataset, feed
from featcache.extraction.forward import Forward

PILOT_BATCHES = 3
"""The first batch warms up and is not counted."""


@dataclass(frozen=True)
class Estimate:
    """Rows, views, bytes on disk and seconds of one split."""

    rows: int
    views: int
    nbytes: int
    seconds: float


def cache_bytes(shapes: Shapes, rows: int, views: int, dtype: ValueType) -> int:
    """Bytes of the arrays of one split (shard indices and metadata come on top: well under a percent)."""
    value = 4 if dtype == "float32" else 2
    tokens = sum(layer.tokens * layer.dim for layer in shapes.layers)
    mask = shapes.layers[0].tokens if shapes.mask else 0
    return rows * (views * ((tokens + shapes.pooled) * value + mask + 1) + 8)


def pilot(dataset: ViewDataset, forward: Forward, device: torch.device) -> float:
    """Seconds per view, from the first batches: reading and forward pass overlap, so the slower one counts.

    The dataset's own batches are used, in this process; nothing is written.
    """
    read, computed, views = [], [], []
    for loaded in itertools.islice(feed(dataset, 0, device), PILOT_BATCHES):
        if not loaded.inputs:
            continue
        start = time.perf_counter()
        forward(loaded.inputs)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        read.append(loaded.seconds)
        computed.append(time.perf_counter() - start)
        views.append(len(loaded.rows) * len(loaded.views))
    kept = slice(1, None) if len(views) > 1 else slice(None)
    return float((np.sum(read[kept]) + np.sum(computed[kept])) / max(1, np.sum(views[kept])))


def pilot_batches(rows: int, views: int, batch_size: int) -> list[Rows]:
    """The first few batches of a split."""
    step = max(1, batch_size // views)
    starts = range(0, min(rows, PILOT_BATCHES * step), step)
    return [Rows(range(start, min(start + step, rows)), tuple(range(views))) for start in starts]


def require_room(path: Path, nbytes: int) -> None:
    """Raise CacheError when the disk that holds `path` has less than `nbytes` free."""
    folder = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
    free = shutil.disk_usage(folder).free
    if nbytes > free:
        raise CacheError(
            f"the disk cannot hold the cache {path}",
            got=f"{human_bytes(free)} free",
            expected=f"{human_bytes(nbytes)}",
            hint="choose another disk, fewer --views, --tokens grid:HxW or cls, or --limit",
        )


def human_bytes(count: float) -> str:
    """Bytes as people say them.

    >>> human_bytes(1_234_567)
    '1.2 MB'
    """
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
