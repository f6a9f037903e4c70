"""Samples, read and transformed in worker processes, arriving as batches in row order."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import cloudpickle
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from featcache.encoders.views import ViewTransform
from featcache.errors import SampleError
from featcache.sources.base import Source

MAX_WORKERS = 8
WORTH_WORKERS = 2_000
"""Below this many views, starting worker processes costs more than they save."""


@dataclass(frozen=True)
class Rows:
    """The rows of one batch, all of one block, and the views (indices) still to be written of them."""

    rows: range
    views: tuple[int, ...]


class Loaded(NamedTuple):
    """A batch ready for the encoder."""

    rows: range
    views: tuple[int, ...]
    inputs: dict[str, Tensor]
    """Each (views * readable rows, ...), view by view; empty when no row could be read."""
    failed: dict[int, str]
    """The reason by row, for rows that could not be read."""
    seconds: float
    """Time spent reading and transforming, in whichever process."""


class ViewDataset(Dataset[Loaded]):
    """Reads and transforms a whole batch at a time: each sample is decoded once for all its views."""

    def __init__(
        self, source: Source, transform: ViewTransform, view_names: Sequence[str], batches: Sequence[Rows]
    ) -> None:
        self.source, self.transform = source, transform
        self.view_names, self.batches = tuple(view_names), batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Loaded:
        start = time.perf_counter()
        rows, views = self.batches[index].rows, self.batches[index].views
        failed: dict[int, str] = {}
        samples: list[list[dict[str, Tensor]]] = []
        for row in rows:
            try:
                samples.append(self._sample(row, views))
            except SampleError as error:
                failed[row] = str(error.what)
        inputs = _stack([sample[v] for v in range(len(views)) for sample in samples])
        return Loaded(rows, views, inputs, failed, time.perf_counter() - start)

    def _sample(self, row: int, views: tuple[int, ...]) -> list[dict[str, Tensor]]:
        data, key = self.source[row], self.source.ids[row]
        return [self.transform(data, key, self.view_names[view]) for view in views]

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        # cloudpickle carries a user's own transform, defined in a file that workers cannot import, by value.
        state = (self.source, self.transform, self.view_names, self.batches)
        return _restore, (cloudpickle.dumps(state),)


def feed(dataset: ViewDataset, num_workers: int, device: torch.device) -> Iterator[Loaded]:
    """Every batch, in order; workers are spawned, never forked, so that no lock is copied in mid-air."""
    loader: Iterable[Loaded] = DataLoader(
        dataset,
        batch_size=None,
        collate_fn=_as_is,
        num_workers=num_workers,
        prefetch_factor=2 if num_workers else None,
        multiprocessing_context=_start_method() if num_workers else None,
        pin_memory=device.type == "cuda",
    )
    return iter(loader)


def auto_workers(views: int) -> int:
    """How many workers for that many views: half the cores, none for a small job."""
    return 0 if views < WORTH_WORKERS else max(1, min(MAX_WORKERS, (os.cpu_count() or 2) // 2))


def _as_is(batch: Any) -> Any:
    return batch


def _start_method() -> str:
    return "forkserver" if "forkserver" in torch.multiprocessing.get_all_start_methods() else "spawn"


def _stack(samples: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    if not samples:
        return {}
    return {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}


def _restore(state: bytes) -> ViewDataset:
    return ViewDataset(*cloudpickle.loads(state))
