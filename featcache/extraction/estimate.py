"""What an extraction will cost before it starts: bytes from the shapes, time from a short timed pilot."""

from __future__ import annotations

import itertools
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from featcache.cache.create import view_bytes
from featcache.cache.spec import Shapes, StoredType
from featcache.errors import CacheError
from featcache.extraction.feed import ViewDataset, feed
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


def cache_bytes(shapes: Shapes, rows: int, views: int, dtype: StoredType) -> int:
    """Bytes of the arrays of one split (shard indices and metadata come on top: well under a percent)."""
    return rows * (views * (view_bytes(shapes, dtype) + 1) + 8)


def pilot(dataset: ViewDataset, forward: Forward, device: torch.device, num_workers: int) -> float:
    """Seconds per view with that many workers, from the dataset's first batches; nothing is written.

    They are read and computed in this process, one after the other, and timed apart.
    """
    timed = []
    for loaded in itertools.islice(feed(dataset, 0, device), PILOT_BATCHES):
        if not loaded.inputs:
            continue
        start = time.perf_counter()
        forward(loaded.inputs)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        views = len(loaded.rows) * len(dataset.view_names)
        timed.append((loaded.seconds, time.perf_counter() - start, views))
    kept = timed[1:] or timed
    if not kept:
        return 0.0
    read, computed, count = (sum(column) for column in zip(*kept, strict=True))
    return pace(float(read), float(computed), num_workers) / int(count)


def pace(read: float, forward: float, num_workers: int) -> float:
    """Seconds in all: workers share the reading, beside the forward pass; without any, the two take turns.

    >>> pace(read=6.0, forward=2.0, num_workers=0), pace(read=6.0, forward=2.0, num_workers=2)
    (8.0, 3.0)
    """
    return max(read / num_workers, forward) if num_workers else read + forward


def pilot_batches(rows: int, views: int, batch_size: int) -> list[range]:
    """The rows of the first few batches of a split."""
    step = max(1, batch_size // views)
    starts = range(0, min(rows, PILOT_BATCHES * step), step)
    return [range(start, min(start + step, rows)) for start in starts]


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
