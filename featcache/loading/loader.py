"""Turn plans into batches on the device; one thread reads ahead into a ring of reused buffers."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from featcache.batch import Batch, Features
from featcache.loading.plan import ReadPlan, choose_tokens, choose_views
from featcache.loading.store import FeatureStore

RING = 3
"""Number of sets of buffers: one in the training step, one ready, one being filled."""


class Plan(Protocol):
    """An order of rows: a pure function of the step."""

    @property
    def rows(self) -> NDArray[np.int64]:
        """(N,) row numbers of the split."""

    @property
    def batch_size(self) -> int:
        """Most rows of a step."""

    @property
    def seed(self) -> int:
        """Seed of the choice of views and tokens."""

    def positions(self, step: int) -> NDArray[np.int64]:
        """Return the (B,) sorted positions within `rows` of one step."""


@dataclass(frozen=True)
class Stream:
    """Rows of one store in the order of a plan, and the view families to read."""

    store: FeatureStore
    plan: Plan
    families: tuple[str, ...]

    @classmethod
    def shuffled(
        cls,
        store: FeatureStore,
        rows: NDArray[np.int64],
        families: tuple[str, ...],
        *,
        batch_size: int,
        seed: int,
    ) -> Stream:
        """Make an endless shuffled stream; a batch has at least one row, and at most all rows."""
        return cls(store, ReadPlan(rows, min(max(1, batch_size), len(rows)), seed), families)

    def wanted(self, step: int) -> Wanted:
        """Choose the rows and views of one step."""
        positions = self.plan.positions(step)
        views = choose_views(self.families, self.store.view_names, self.plan.seed, step)
        return Wanted(positions, self.plan.rows[positions], views)

    def buffers(self, *, pinned: bool) -> list[dict[str, Tensor]]:
        """Make one set of reusable buffers, one entry for each view."""
        return [self.store.buffers(self.plan.batch_size, pinned=pinned) for _ in self.families]

    def read_ahead(self, wanted: Wanted) -> None:
        """Ask the disk for the rows of a later step, without waiting."""
        for view in wanted.views:
            self.store.read_ahead(wanted.rows, view)

    def read(self, wanted: Wanted, buffers: list[dict[str, Tensor]]) -> tuple[Features, ...]:
        """Read the rows of one step in every view into the buffers."""
        return tuple(
            self.store.gather(wanted.rows, view, into)
            for view, into in zip(wanted.views, buffers, strict=True)
        )

    def on_device(
        self, parts: tuple[Features, ...], step: int, device: torch.device, token_subset: float
    ) -> tuple[Features, ...]:
        """Move features to the device, with the step's share of the tokens."""
        moved = []
        for part in parts:
            kept = choose_tokens(part.tokens.shape[1], self.store.prefix, token_subset, self.plan.seed, step)
            moved.append(self.store.on_device(part, device, kept))
        return tuple(moved)


class Wanted(NamedTuple):
    """The rows and views that one stream reads at one step."""

    positions: NDArray[np.int64]
    """(B,) positions within the stream's rows."""
    rows: NDArray[np.int64]
    """(B,) row numbers of the split."""
    views: tuple[int, ...]


class Loader:
    """Yield batches, in an order that depends only on the plans of the streams.

    `steps(k, stop)` yields exactly what an uninterrupted loader yields from step k on. The tensors of a batch
    are valid until the next batch is requested, because their buffers are reused. `labels` (N,) int64 are
    those of all rows of the split that the `labelled` stream reads.

    With `token_subset` below 1, a batch holds that share of the tokens. Their positions are drawn for each
    step, and are the same in all rows and views of a stream.
    """

    def __init__(
        self,
        labelled: Stream,
        labels: NDArray[np.int64],
        unlabelled: Stream | None = None,
        replay: Stream | None = None,
        *,
        device: torch.device,
        token_subset: float = 1.0,
    ) -> None:
        self.labels, self.device, self.token_subset = labels, device, token_subset
        named = {"labelled": labelled, "unlabelled": unlabelled, "replay": replay}
        self.streams = {name: stream for name, stream in named.items() if stream is not None}
        self._pinned = device.type == "cuda"

    def steps(self, start: int, stop: int) -> Generator[Batch]:
        """Yield the batches of steps `start` to `stop` - 1; a thread reads ahead.

        Errors of the thread are raised here, and those of shards that turn out to be damaged, by the end.
        """
        free: queue.Queue[Any] = queue.Queue()
        ready: queue.Queue[Any] = queue.Queue()
        for _ in range(RING):
            free.put((self._buffers(), None))
        closing = threading.Event()
        worker = threading.Thread(
            target=self._fill,
            args=(start, stop, free, ready, closing),
            name="featcache-prefetch",
            daemon=True,
        )
        worker.start()
        try:
            for step in range(start, stop):
                item = ready.get()
                if isinstance(item, BaseException):
                    raise item
                buffers, batch = item
                moved, copied = self._to_device(batch, step)
                yield moved
                free.put((buffers, copied))
            for stream in self.streams.values():
                stream.store.finish_checks()
        finally:
            closing.set()
            free.put(None)
            worker.join()

    def _fill(
        self, start: int, stop: int, free: queue.Queue[Any], ready: queue.Queue[Any], closing: threading.Event
    ) -> None:
        try:
            wanted = self._wanted(start)
            for step in range(start, stop):
                slot = free.get()
                if closing.is_set():
                    return
                buffers, copied = slot
                if copied is not None:
                    copied.synchronize()
                following = self._wanted(step + 1) if step + 1 < stop else {}
                self._read_ahead(following)
                ready.put((buffers, self._read(wanted, buffers)))
                wanted = following
        except BaseException as error:  # the consumer raises it
            ready.put(error)

    def _wanted(self, step: int) -> dict[str, Wanted]:
        return {name: stream.wanted(step) for name, stream in self.streams.items()}

    def _read_ahead(self, wanted: dict[str, Wanted]) -> None:
        for name, reads in wanted.items():
            self.streams[name].read_ahead(reads)

    def _read(self, wanted: dict[str, Wanted], buffers: dict[str, list[dict[str, Tensor]]]) -> Batch:
        features = {name: self.streams[name].read(reads, buffers[name]) for name, reads in wanted.items()}
        index = wanted["unlabelled"].positions if "unlabelled" in wanted else np.empty(0, np.int64)
        return Batch(
            features["labelled"],
            self._host(self.labels[wanted["labelled"].rows]),
            features.get("unlabelled", ()),
            self._host(index),
            features.get("replay", ()),
        )

    def _host(self, numbers: NDArray[np.int64]) -> Tensor:
        tensor = torch.from_numpy(numbers)
        return tensor.pin_memory() if self._pinned else tensor

    def _buffers(self) -> dict[str, list[dict[str, Tensor]]]:
        return {name: stream.buffers(pinned=self._pinned) for name, stream in self.streams.items()}

    def _to_device(self, batch: Batch, step: int) -> tuple[Batch, torch.cuda.Event | None]:
        """Move a batch to the device; after the event, its buffers may be filled again."""
        moved = {
            name: stream.on_device(getattr(batch, name), step, self.device, self.token_subset)
            for name, stream in self.streams.items()
        }
        label = batch.label.to(self.device, non_blocking=True)
        index = batch.unlabelled_index.to(self.device, non_blocking=True)
        there = batch._replace(label=label, unlabelled_index=index, **moved)
        if self.device.type == "cpu":
            return there, None
        copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        copied.record(torch.cuda.current_stream(self.device))
        return there, copied


def read_in_order(
    store: FeatureStore, rows: NDArray[np.int64], batch_size: int, device: torch.device, view: int = 0
) -> Iterator[Features]:
    """Yield one view of sorted `rows` in batches; the tensors are valid until the next batch."""
    buffers = store.buffers(min(batch_size, max(1, len(rows))))
    for start in range(0, len(rows), batch_size):
        yield store.on_device(store.gather(rows[start : start + batch_size], view, buffers), device)
    store.finish_checks()
