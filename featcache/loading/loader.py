"""From a plan to batches on the device: one prefetch thread reads ahead into a ring of reused buffers."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from featcache.batch import Batch, Features, Views
from featcache.loading.plan import ReadPlan, choose_tokens, choose_views, family_of
from featcache.loading.store import FeatureStore

RING = 3
"""Sets of buffers: one in the training step, one ready, one being filled."""


@dataclass(frozen=True)
class Stream:
    """One shuffled stream of rows, and the view families to read of each."""

    plan: ReadPlan
    families: tuple[str, ...]


class Wanted(NamedTuple):
    """What one stream reads at one step."""

    positions: NDArray[np.int64]
    """Places within the stream's rows."""
    rows: NDArray[np.int64]
    views: tuple[int, ...]


class Loader:
    """Batches of a split for steps `start` to `stop`, in an order that depends on the plans alone.

    Asking for `steps(start=k)` gives exactly what an uninterrupted loader gives from step k on. A batch's
    tensors are valid until the next batch is asked for: their buffers are reused.
    """

    def __init__(
        self,
        store: FeatureStore,
        labels: NDArray[np.int64],
        labelled: Stream,
        unlabelled: Stream | None,
        device: torch.device,
        replay: tuple[FeatureStore, Stream] | None = None,
        token_subset: float = 1.0,
    ) -> None:
        self.store, self.labels, self.device = store, labels, device
        self.token_subset = token_subset
        self.labelled, self.unlabelled, self.replay = labelled, unlabelled, replay
        self._pinned = device.type == "cuda"
        self._streams = {"labelled": (store, labelled)}
        if unlabelled:
            self._streams["unlabelled"] = (store, unlabelled)
        if replay:
            self._streams["replay"] = replay

    @classmethod
    def build(
        cls,
        store: FeatureStore,
        labels: NDArray[np.int64],
        rows: tuple[NDArray[np.int64], NDArray[np.int64]],
        views: Views,
        *,
        batch_size: int,
        uratio: float,
        seed: int,
        device: torch.device,
        replay: tuple[FeatureStore, NDArray[np.int64]] | None = None,
        replay_ratio: float = 0.0,
        token_subset: float = 1.0,
    ) -> Loader:
        """Streams over (labelled, unlabelled) `rows`; the unlabelled batch is `uratio` times `batch_size`.

        Rows of a second cache, `replay`, are `replay_ratio` times the unlabelled ones (at least one). With
        `token_subset` below 1, a batch holds that share of the tokens: the same positions in all of a
        stream's rows and views, others at every step.
        """
        labelled_rows, unlabelled_rows = rows
        labelled = Stream(ReadPlan(labelled_rows, min(batch_size, len(labelled_rows)), seed), views.labelled)
        unlabelled = None
        if views.unlabelled and len(unlabelled_rows):
            size = min(max(1, round(uratio * batch_size)), len(unlabelled_rows))
            unlabelled = Stream(ReadPlan(unlabelled_rows, size, seed + 1), views.unlabelled)
        mixed_in = None
        if views.replay and replay and len(replay[1]):
            size = round(replay_ratio * (unlabelled or labelled).plan.batch_size)
            mixed_in = (replay[0], _replay_stream(*replay, size, seed + 2, views.replay))
        return cls(store, labels, labelled, unlabelled, device, mixed_in, token_subset)

    def steps(self, start: int, stop: int) -> Generator[Batch]:
        """The batches of steps `start` to `stop`, read ahead by one thread; its errors are raised here."""
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
        except BaseException as error:  # handed to the consumer, which raises it
            ready.put(error)

    def _wanted(self, step: int) -> dict[str, Wanted]:
        found = {}
        for name, (store, stream) in self._streams.items():
            positions = stream.plan.positions(step)
            views = choose_views(stream.families, store.view_names, stream.plan.seed, step)
            found[name] = Wanted(positions, stream.plan.rows[positions], views)
        return found

    def _read_ahead(self, wanted: dict[str, Wanted]) -> None:
        for name, (_, rows, views) in wanted.items():
            for view in views:
                self._streams[name][0].read_ahead(rows, view)

    def _read(self, wanted: dict[str, Wanted], buffers: dict[str, list[dict[str, Tensor]]]) -> Batch:
        features = {
            name: tuple(
                self._streams[name][0].gather(rows, view, into)
                for view, into in zip(views, buffers[name], strict=True)
            )
            for name, (_, rows, views) in wanted.items()
        }
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
        return {
            name: [store.buffers(stream.plan.batch_size, pinned=self._pinned) for _ in stream.families]
            for name, (store, stream) in self._streams.items()
        }

    def _to_device(self, batch: Batch, step: int) -> tuple[Batch, torch.cuda.Event | None]:
        """The batch on the device, and what happens there once the ring may refill the buffers."""
        replay_store, replay = self.replay or (self.store, None)
        moved = Batch(
            self._move(batch.labelled, self.store, self.labelled, step),
            batch.label.to(self.device, non_blocking=True),
            self._move(batch.unlabelled, self.store, self.unlabelled, step),
            batch.unlabelled_index.to(self.device, non_blocking=True),
            self._move(batch.replay, replay_store, replay, step),
        )
        if self.device.type == "cpu":
            return moved, None
        copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        copied.record(torch.cuda.current_stream(self.device))
        return moved, copied

    def _move(
        self, parts: tuple[Features, ...], store: FeatureStore, stream: Stream | None, step: int
    ) -> tuple[Features, ...]:
        def moved(part: Features, seed: int) -> Features:
            kept = choose_tokens(part.tokens.shape[1], store.prefix, self.token_subset, seed, step)
            return store.on_device(part, self.device, kept)

        return tuple(moved(part, stream.plan.seed) for part in parts) if stream else ()


def _replay_stream(
    store: FeatureStore, rows: NDArray[np.int64], size: int, seed: int, families: tuple[str, ...]
) -> Stream:
    """A family that the second cache does not hold is read as its `eval` view."""
    held = {family_of(name) for name in store.view_names}
    plan = ReadPlan(rows, min(max(1, size), len(rows)), seed)
    return Stream(plan, tuple(family if family in held else "eval" for family in families))


def read_in_order(
    store: FeatureStore, rows: NDArray[np.int64], batch_size: int, device: torch.device, view: int = 0
) -> Iterator[Features]:
    """One view of sorted `rows`, batch by batch, for evaluation; tensors are valid until the next batch."""
    buffers = store.buffers(min(batch_size, max(1, len(rows))))
    for start in range(0, len(rows), batch_size):
        yield store.on_device(store.gather(rows[start : start + batch_size], view, buffers), device)
