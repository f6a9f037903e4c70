"""Batches of transformed samples in row order, read ahead by worker processes or a thread."""

from __future__ import annotations

import multiprocessing
import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from multiprocessing.context import BaseContext
from types import MappingProxyType
from typing import Any, NamedTuple, Self

import cloudpickle
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from featcache import limits
from featcache.errors import EncoderError, FeatcacheError, LimitError, SampleError, option
from featcache.extraction.view_transform import ViewTransform
from featcache.processes import without_main
from featcache.sources.base import Source

MAX_WORKERS = 8
WORTH_WORKERS = 2_000
"""For fewer views, starting worker processes costs more than they save, so a thread reads."""
READ_AHEAD = 2
"""Batches that may wait for the forward pass, for each worker or for the thread."""


class Loaded(NamedTuple):
    """A batch ready for the encoder."""

    rows: range
    inputs: dict[str, Tensor]
    """Each (views * readable rows, ...), view by view; empty when no row could be read."""
    failed: dict[int, str]
    """The reasons by row, for rows that could not be read."""
    seconds: float
    """Time spent on reading and transforming, in the process that did it."""

    @classmethod
    def joined(cls, parts: Sequence[Self], views: int) -> Self:
        """Return successive batches of the same views as one."""
        first, *others = parts
        if not others:
            return first
        filled = [part.inputs for part in parts if part.inputs]
        inputs = {
            name: torch.cat([some[name].reshape(views, -1, *some[name].shape[1:]) for some in filled], 1)
            for name in (filled[0] if filled else ())
        }
        whole = cls(
            range(first.rows.start, others[-1].rows.stop),
            {name: value.flatten(0, 1) for name, value in inputs.items()},
            {row: reason for part in parts for row, reason in part.failed.items()},
            sum(part.seconds for part in parts),
        )
        return whole.pin_memory() if filled and all(x.is_pinned() for x in filled[0].values()) else whole

    def pin_memory(self) -> Self:
        """Return the batch in pinned memory, which a GPU copies while it computes."""
        return self._replace(inputs={name: value.pin_memory() for name, value in self.inputs.items()})


class _Piped(NamedTuple):
    """A batch whose bytes go through a pipe: slow, and for any size of shared memory."""

    loaded: Loaded
    """Without its inputs."""
    inputs: dict[str, tuple[NDArray[np.uint8], torch.dtype]]

    @classmethod
    def of(cls, batch: Loaded) -> Self:
        inputs = {
            name: (value.contiguous().view(torch.uint8).numpy(), value.dtype)
            for name, value in batch.inputs.items()
        }
        return cls(batch._replace(inputs={}), inputs)

    def received(self) -> Loaded:
        inputs = {name: torch.from_numpy(data).view(dtype) for name, (data, dtype) in self.inputs.items()}
        return self.loaded._replace(inputs=inputs)

    def pin_memory(self) -> Loaded:
        """Return the batch in pinned memory; torch's DataLoader calls this method by its name."""
        return self.received().pin_memory()


class ViewDataset(Dataset[Loaded | FeatcacheError]):
    """Reads and transforms a whole batch at a time: each sample is decoded once for all its views."""

    def __init__(
        self,
        source: Source,
        transform: ViewTransform,
        view_names: Sequence[str],
        batches: Sequence[range],
        unreadable: Mapping[int, str] = MappingProxyType({}),
    ) -> None:
        self.source, self.transform = source, transform
        self.view_names, self.batches = tuple(view_names), batches
        self.unreadable = dict(unreadable)
        """Reasons by row, for rows that are not to be read."""

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Loaded | FeatcacheError:
        # Returned as a value, because an error raised in a worker process arrives as a text with a traceback.
        try:
            with limits.explained():
                return self._load(self.batches[index])
        except FeatcacheError as error:
            return error

    def _load(self, rows: range) -> Loaded:
        start = time.perf_counter()
        failed: dict[int, str] = {}
        samples: list[list[dict[str, Tensor]]] = []
        for row in rows:
            if row in self.unreadable:
                failed[row] = self.unreadable[row]
                continue
            try:
                samples.append(self.sample(row))
            except SampleError as error:
                failed[row] = _reason(error, self.source.ids[row])
        inputs = _stack([sample[v] for v in range(len(self.view_names)) for sample in samples])
        return Loaded(rows, inputs, failed, time.perf_counter() - start)

    def sample(self, row: int) -> list[dict[str, Tensor]]:
        """Read one sample and return its views; raises SampleError if that cannot be done."""
        data, key = self.source[row], self.source.ids[row]
        try:
            return [self.transform(data, key, view) for view in self.view_names]
        except FeatcacheError:
            raise
        except Exception as error:
            limits.require_none(error, key)
            # The reason is stored, so it may not contain addresses, which differ from run to run.
            said = re.sub("0x[0-9a-fA-F]+", "...", f"{type(error).__name__}: {error}")
            raise SampleError("the model's transform fails", got=said) from error

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        # cloudpickle sends a transform by value where workers cannot import the file that defines it.
        state = (self.source, self.transform, self.view_names, self.batches, self.unreadable)
        return _restore, (cloudpickle.dumps(state),)


def feed(dataset: ViewDataset, num_workers: int, device: torch.device) -> Generator[Loaded, None, None]:
    """Yield every batch in order, read ahead by `num_workers` processes; 0: by a thread of this process.

    Raises EncoderError where samples do not stack to a batch, LimitError where a worker dies or a
    limit of the machine is met.
    """
    num_workers, pinned = min(num_workers, len(dataset)), device.type == "cuda"
    arriving = _processes(dataset, num_workers, pinned) if num_workers else _thread(dataset, pinned)
    with closing(arriving):
        for loaded in arriving:
            if isinstance(loaded, FeatcacheError):
                raise loaded
            yield loaded


def _processes(
    dataset: ViewDataset, num_workers: int, pinned: bool
) -> Generator[Loaded | FeatcacheError, None, None]:
    """Read in processes that are never forks of this one, as a fork would copy locks that are held."""
    loader: Iterable[_Piped | Loaded | FeatcacheError] = DataLoader(
        dataset,
        batch_size=None,
        collate_fn=_sendable,
        num_workers=num_workers,
        prefetch_factor=READ_AHEAD,
        multiprocessing_context=_context(),
        pin_memory=pinned,
        worker_init_fn=_end_with_parent,
    )
    try:
        with without_main():
            arriving = iter(loader)
        for batch in arriving:
            yield batch.received() if isinstance(batch, _Piped) else batch
    except (RuntimeError, OSError, EOFError) as error:
        limits.require_none(error, f"{num_workers} reading processes")
        # The type of the error depends on what the process was sending when it died.
        said = [type(error).__name__, *str(error).strip().splitlines()[-1:]]
        raise LimitError(
            "a reading process died",
            got=": ".join(said),
            expected=f"enough memory for {option('num_workers')} and {option('batch_size')}",
            hint=f"rerun with a smaller {option('num_workers')} or {option('batch_size')}; it continues",
        ) from error


def _sendable(batch: Any) -> Any:
    """Return a batch as a process can send it: in shared memory, or through a pipe where that is full.

    torch would find out too late, and wait for ever for a batch that is lost. Docker gives 64 MB.
    """
    if isinstance(batch, FeatcacheError):
        return batch
    try:
        for value in batch.inputs.values():
            value.share_memory_()
    except RuntimeError:
        return _Piped.of(batch)
    return batch


def _end_with_parent(worker: int) -> None:
    """End this worker when the process that started it does, however it ends; its server follows."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="featcache-parent", daemon=True).start()


def _thread(dataset: ViewDataset, pinned: bool) -> Generator[Loaded | FeatcacheError, None, None]:
    """Read in one thread: it starts at once, and Pillow and torch release the GIL to the forward pass.

    More threads are not safe, as not every source can be read by two at a time.
    """

    def load(index: int) -> Loaded | FeatcacheError:
        loaded = dataset[index]
        return loaded.pin_memory() if pinned and isinstance(loaded, Loaded) else loaded

    waiting: deque[Future[Loaded | FeatcacheError]] = deque()
    with ThreadPoolExecutor(1, "featcache-reader") as pool:
        try:
            for index in range(len(dataset)):
                waiting.append(pool.submit(load, index))
                if len(waiting) > READ_AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def auto_workers(views: int) -> int:
    """Return the number of workers for that many views: half the cores, or 0 (a thread) for few views."""
    return 0 if views < WORTH_WORKERS else max(1, min(MAX_WORKERS, (os.cpu_count() or 2) // 2))


def _reason(error: SampleError, sample_id: str) -> str:
    detail = str(error.got or "").removeprefix(sample_id).removeprefix(": ")
    return f"{error.what} ({detail})" if detail else error.what


def _context() -> BaseContext:
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    # Workers are forks of a process that has only imported, which saves each of them seconds.
    context.set_forkserver_preload([__name__, "torchvision.transforms.v2"])
    return context


def _stack(samples: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    if not samples:
        return {}
    shapes = {tuple((name, *value.shape) for name, value in sorted(sample.items())) for sample in samples}
    if len(shapes) > 1:
        raise EncoderError(
            "the model's transform gives tensors of different shapes",
            got=" and ".join(map(str, sorted(shapes)[:2])),
            expected="the same shape for every sample",
            hint="resize or crop (images), pad or cut (text) in the transform",
        )
    return {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}


def _restore(state: bytes) -> ViewDataset:
    return ViewDataset(*cloudpickle.loads(state))
