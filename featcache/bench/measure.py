"""How many samples a second steps, readers and models take: short trials, in turn."""

from __future__ import annotations

import copy
import itertools
import os
import statistics
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Literal, cast

import torch

from featcache.batch import Batch, Features
from featcache.bench.explain import Extraction, Reading, Training
from featcache.cache.layout import Unit
from featcache.cache.reader import CacheReader
from featcache.encoders.base import Inputs
from featcache.errors import FeatcacheError, SourceError
from featcache.extraction.feed import ViewDataset, auto_workers
from featcache.extraction.forward import Forward
from featcache.extraction.opened import Opened
from featcache.extraction.options import ExtractOptions
from featcache.loading.loader import RING, Loader
from featcache.loading.store import reside
from featcache.objectives.base import Task
from featcache.stages.train import Job
from featcache.training.learner import build
from featcache.training.loop import fit
from featcache.training.state import TrainState

SECONDS = 2.0
"""For each group of figures that are compared with each other."""
BATCHES, VIEWS = 4, {"cpu": 16, "cuda": 64}
"""What goes through the model, and how many views at a time: a large one is slow on a CPU."""


class Trainer:
    """A training of a job, step by step, with whatever gives the batches."""

    def __init__(self, job: Job, task: Task) -> None:
        self.job, self.task = job, task
        self.state = self._state(job)
        self.held = self._held(job)

    def loading(self) -> float:
        """Samples a second that the loader gives, from files in memory."""
        loader = self.job.loader(self.state)

        def run() -> int:
            steps = 6 * RING
            for _ in loader.steps(0, steps):
                pass
            return steps * _samples(self.held)

        return turns({"loader": run})["loader"]

    def measure(self, reading: Reading, end: float) -> Training:
        """Steps alone, under the options that might help; then with the loader, as far as time allows."""
        options, tried = self.job.options, {}
        if options.optim.amp == "float32":
            amp = options.optim.model_copy(update={"amp": "bfloat16"})
            tried["--set optim.amp=bfloat16"] = options.model_copy(update={"optim": amp})
        if options.data.token_subset > 0.5:
            subset = options.data.model_copy(update={"token_subset": 0.5})
            tried["--set data.token_subset=0.5"] = options.model_copy(update={"data": subset})
        runs: dict[str, Callable[[], int]] = {"step": self._step(self.job)}
        for option, other in tried.items():
            changed = copy.copy(self.job)
            changed.options = other
            runs[option] = self._step(changed)
        rates = turns(runs)
        step = rates.pop("step")
        count = min(options.optim.steps, max(RING, round(step / _samples(self.held) * SECONDS)))
        takes = count * _samples(self.held) / min(step, reading.loader)
        streamed = self._fed(count) if time.perf_counter() + takes < end else None
        resident = None
        # Loading reads each row of each view once.
        takes += reading.nbytes / self.job.train_store.columns["tokens"].array.layout.row_bytes / reading.warm
        if reading.residency != "stream" and time.perf_counter() + takes < end:
            reside(self.job.train_store, cast(Literal["ram", "device"], reading.residency), self.job.device)
            resident = self._fed(count)
        return Training(self.job.request.objective, step, streamed, resident, rates)

    def _step(self, job: Job) -> Callable[[], int]:
        """One step, again and again on the same batch."""
        state, held = self._state(job), self._held(job)

        def run() -> int:
            self._fit(job, state, held, 1)
            return _samples(self.held)

        return run

    def _fed(self, count: int) -> float:
        """Samples a second of that many steps with the loader, its start included."""
        start = time.perf_counter()
        self._fit(self.job, self.state, self.job.loader(self.state), count)
        return count * _samples(self.held) / (time.perf_counter() - start)

    def _fit(self, job: Job, state: TrainState, batches: Loader | _Held, count: int) -> None:
        """The last steps of the training, in which the learning rate is least."""
        state.step = max(0, job.options.optim.steps - count)
        seed, device = job.request.seed, job.device
        fit(
            state,
            cast(Loader, batches),
            job.options,
            seed=seed,
            device=device,
            log=lambda step, terms: None,
            save=lambda: None,
        )

    def _state(self, job: Job) -> TrainState:
        features = job.origin().features
        seed = job.request.seed
        learner = build(job.kind, job.options, self.task, features, seed=seed, device=job.device)
        assert isinstance(learner, TrainState)
        return learner

    def _held(self, job: Job) -> _Held:
        with closing(job.loader(self.state).steps(0, 1)) as batches:
            return _Held(_copied(next(batches)))


class _Held:
    """What `fit` asks of a loader: one batch, which is in memory (or on the device), at every step."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def steps(self, start: int, stop: int) -> Generator[Batch]:
        for _ in range(start, stop):
            yield self.batch


def extraction(cache: CacheReader, source: str | None, model: str | None, device: str) -> Extraction | str:
    """Reading, decoding and the forward pass, some batches of each; or why not."""
    made, spec = cache.provenance, cache.spec
    found = source or made.get("source"), model or made.get("model")
    if not all(found):
        return "the cache does not say what it was made from; give --source and --model."
    same = {name: getattr(spec, name) for name in ("views", "tokens", "layers", "dtype", "amp")}
    options = ExtractOptions.of(same | {"label_column": made.get("options", {}).get("label_column")})
    try:
        opened = Opened.of(str(found[0]), str(found[1]), options, device)
    except FeatcacheError as error:
        if source or model:
            raise
        return f"{error.what} ({error.got}); give --source and --model."
    forward, every = opened.forward, [Unit(0, 0, 0, len(opened.first))]
    dataset = opened.dataset(opened.first, every, VIEWS[forward.device.type])
    decode, batches = _decoded(dataset)
    runs = {"forward": _computing(forward, batches)}
    if forward.amp == "float32":
        runs["--amp bfloat16"] = _computing(replace(forward, amp="bfloat16"), batches)
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
    """Views a second that one reader gives, and the batches it gave; the first one also warms it up."""
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


def turns(runs: Mapping[str, Callable[[], int]]) -> dict[str, float]:
    """What each run does in a second: the median of some turns, which they take one after the other.

    What other programs do in the meantime slows all of them down alike. One turn to warm up, one at least.
    """
    for run in runs.values():
        run()
    found: dict[str, list[float]] = {name: [] for name in runs}
    end = time.perf_counter() + SECONDS
    while True:
        for name, run in runs.items():
            start = time.perf_counter()
            done = run()
            found[name].append(done / (time.perf_counter() - start))
        if time.perf_counter() > end:
            return {name: statistics.median(rates) for name, rates in found.items()}


def _samples(held: _Held) -> int:
    """Rows of a step, counted in each view they are read in."""
    return sum(
        len(part.pooled) for part in (*held.batch.labelled, *held.batch.unlabelled, *held.batch.replay)
    )


def _copied(batch: Batch) -> Batch:
    """The batch in memory of its own: the loader's buffers are reused."""

    def kept(parts: tuple[Features, ...]) -> tuple[Features, ...]:
        return tuple(
            Features(
                part.tokens.clone(), None if part.mask is None else part.mask.clone(), part.pooled.clone()
            )
            for part in parts
        )

    label, index = batch.label.clone(), batch.unlabelled_index.clone()
    return Batch(kept(batch.labelled), label, kept(batch.unlabelled), index, kept(batch.replay))
