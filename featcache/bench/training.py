"""Measure the training step of an objective on a cache, alone and with the loader."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Literal, cast

from featcache.batch import Batch, Features
from featcache.bench.explain import Reading, Training
from featcache.bench.turns import SECONDS, turns
from featcache.errors import option
from featcache.loading.loader import RING, Loader
from featcache.loading.replay import ReplayCache
from featcache.loading.store import reside
from featcache.training.data import Draw
from featcache.training.learners import create_learner
from featcache.training.loop import fit, make_loader
from featcache.training.options import TrainOptions
from featcache.training.recipe import Recipe
from featcache.training.trained_projector import TrainedProjector


@dataclass(frozen=True)
class Trial:
    """A recipe and a draw of labels, whose steps are measured."""

    recipe: Recipe
    draw: Draw
    replay: ReplayCache | None

    def learner(self) -> TrainedProjector:
        """Make a new learner."""
        learner = create_learner(self.recipe, self.draw)
        assert isinstance(learner, TrainedProjector)
        return learner

    def loader(self) -> Loader:
        """Make the loader of the learner's batches."""
        return make_loader(self.learner(), self.draw, self.recipe.options, order_seed=0, replay=self.replay)

    def batch(self) -> Batch:
        """Return a copy of the first batch."""
        with closing(self.loader().steps(0, 1)) as batches:
            return copied(next(batches))


class StepBench:
    """Measure the rates of one trial."""

    def __init__(self, trial: Trial) -> None:
        self.trial, self.samples = trial, _samples(trial.batch())

    def loading(self) -> float:
        """Measure the loader in samples/s, with the files in the page cache."""
        loader, steps = self.trial.loader(), 6 * RING

        def run() -> int:
            for _ in loader.steps(0, steps):
                pass
            return steps * self.samples

        return turns({"loader": run})["loader"]

    def measure(self, reading: Reading, end: float) -> Training:
        """Measure steps alone, then with other options, then with the loader.

        A measurement that would end after `end`, a time of `time.perf_counter()`, is left out.
        """
        trial, options = self.trial, self.trial.recipe.options
        runs = {"step": self._step(trial)}
        for flag, other in _variants(options).items():
            runs[flag] = self._step(replace(trial, recipe=replace(trial.recipe, options=other)))
        rates = turns(runs)
        step = rates.pop("step")
        count = min(options.optim.steps, max(RING, round(step / self.samples * SECONDS)))
        takes = count * self.samples / min(step, reading.loader)
        streamed = self._fed(count) if time.perf_counter() + takes < end else None
        resident, store = None, trial.draw.data.train_store
        # Loading reads each row of each view once.
        takes += reading.nbytes / store.columns["tokens"].array.layout.row_bytes / reading.warm
        if reading.residency != "stream" and time.perf_counter() + takes < end:
            reside(store, cast(Literal["ram", "device"], reading.residency), trial.draw.data.device)
            resident = self._fed(count)
        return Training(trial.recipe.objective, step, streamed, resident, rates)

    def _step(self, trial: Trial) -> Callable[[], int]:
        """Return a function that takes one step, always on the same batch."""
        learner, batch = trial.learner(), trial.batch()

        def run() -> int:
            _last_steps(learner, 1)
            fit([learner], itertools.repeat(batch, 1), learner.device)
            return self.samples

        return run

    def _fed(self, count: int) -> float:
        """Measure `count` steps with the loader in samples/s, including the start of the loader."""
        learner, loader = self.trial.learner(), self.trial.loader()
        start = time.perf_counter()
        _last_steps(learner, count)
        with closing(loader.steps(learner.steps - count, learner.steps)) as batches:
            fit([learner], batches, learner.device)
        return count * self.samples / (time.perf_counter() - start)


def _last_steps(learner: TrainedProjector, count: int) -> None:
    """Set the learner to its last `count` steps, where the learning rate is smallest."""
    learner.state.step = max(0, learner.steps - count)


def _variants(options: TrainOptions) -> dict[str, TrainOptions]:
    """Return options that might make a step faster, one changed at a time, by their marked names."""
    found = {}
    if options.optim.amp == "float32":
        amp = options.optim.model_copy(update={"amp": "bfloat16"})
        found[option("optim.amp", "bfloat16")] = options.model_copy(update={"optim": amp})
    if options.data.token_subset > 0.5:
        subset = options.data.model_copy(update={"token_subset": 0.5})
        found[option("data.token_subset", 0.5)] = options.model_copy(update={"data": subset})
    return found


def _samples(batch: Batch) -> int:
    """Count the samples of a batch; a row in two views counts twice."""
    return sum(len(part.pooled) for part in (*batch.labelled, *batch.unlabelled, *batch.replay))


def copied(batch: Batch) -> Batch:
    """Copy a batch, because the loader reuses its buffers."""

    def kept(parts: tuple[Features, ...]) -> tuple[Features, ...]:
        return tuple(part.copy() for part in parts)

    label, index = batch.label.clone(), batch.unlabelled_index.clone()
    return Batch(kept(batch.labelled), label, kept(batch.unlabelled), index, kept(batch.replay))
