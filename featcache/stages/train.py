"""`featcache train`: train one objective on a cache with a few labels, and test it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featcache.cache.reader import CacheReader
from featcache.devices import resolve
from featcache.loading.replay import ReplayCache
from featcache.location import Location
from featcache.runs.run import RESULT, RunFolder
from featcache.training.checks import refuse_missing_cls, refuse_seed
from featcache.training.cross_validation import cross_validate
from featcache.training.data import DataPool, Draw, Say, TrainingData
from featcache.training.journal import RunJournal, Watch
from featcache.training.learner import Learner
from featcache.training.learners import create_learner, parse_options
from featcache.training.loop import train_learner
from featcache.training.options import TrainOptions
from featcache.training.self_report import self_report


@dataclass(frozen=True)
class TrainRequest:
    """One training: the same request on the same machine gives the same result."""

    cache: str | Path | CacheReader
    objective: str
    seed: int = 0
    """Seeds the draw of labels and the training."""
    labels_per_class: int | None = None
    num_labels: int | None = None
    options: Mapping[str, Any] | None = None
    """Nested overrides of TrainOptions, for example {"optim": {"steps": 500}}."""
    order_seed: int | None = None
    """Seeds the order of samples; None: as `seed`."""


@dataclass(frozen=True)
class _Training:
    """A request with its parsed options and its opened data."""

    request: TrainRequest
    options: TrainOptions
    data: TrainingData
    replay: ReplayCache | None
    say: Say
    watch: Watch

    @property
    def order_seed(self) -> int:
        asked = self.request.order_seed
        return self.request.seed if asked is None else asked

    def config(self) -> dict[str, Any]:
        """Return everything the result depends on: two equal configurations are the same run."""
        request, options = self.request, self.options.model_dump(mode="json")
        # The content of a cache identifies it, not its place.
        options["data"]["replay"] = None
        return {
            "objective": request.objective,
            "seed": request.seed,
            "labels_per_class": request.labels_per_class,
            "num_labels": request.num_labels,
            "cache": self.data.cache.fingerprint,
            "splits": {s.name: s.spec.model_dump() for s in (self.data.train, self.data.test)},
            "device": self.data.device.type,
            "options": options,
            **({"replay": self.replay.record()} if self.replay else {}),
            **({"order_seed": self.order_seed} if self.order_seed != request.seed else {}),
        }

    def draw(self) -> Draw:
        request = self.request
        return self.data.draw(
            self.options.data,
            seed=request.seed,
            labels_per_class=request.labels_per_class,
            num_labels=request.num_labels,
        )

    def create(self, draw: Draw) -> Learner:
        """Make the learner, before its first step."""
        seed, device = self.request.seed, self.data.device
        return create_learner(self.request.objective, self.options, draw, seed=seed, device=device)

    def learn(self, learner: Learner, draw: Draw, run: RunFolder) -> None:
        """Train the learner to its last step, from its checkpoint where there is one."""
        if not learner.steps:
            return
        if run.checkpoint.exists():
            learner.resume(run.checkpoint)
            self.say(f"resumed at step {learner.steps_done}")
        with RunJournal(run, learner, self.watch) as learner.journal:
            train_learner(
                learner, draw, self.options, order_seed=self.order_seed, replay=self.replay, say=self.say
            )

    def train_fold(self, number: int, draw: Draw, run: RunFolder) -> Learner:
        """Train on a part of the labels, in a folder of the run, so that it can be resumed."""
        learner, folder = self.create(draw), RunFolder(run.path / f"fold={number}")
        if learner.steps:
            folder.begin(self.config(), self.data.cache.path)
        self.learn(learner, draw, folder)
        return learner


def run_training(
    request: TrainRequest,
    out: str | Path,
    *,
    device: str = "auto",
    resume: bool = False,
    say: Say = lambda line: None,
    watch: Watch = lambda step, terms: None,
    pool: DataPool | None = None,
) -> dict[str, Any]:
    """Train one objective on a cache and write a run to `out`; returns the content of its result.json.

    Test labels are used once, at the end. A `pool` keeps the opened data for the next training. Raises a
    FeatcacheError, before anything is written, when the cache is not complete, the labels do not suffice, an
    option does not fit, or `out` holds something else.
    """
    training = _open(request, pool or DataPool(resolve(device)), say, watch)
    config, path = training.config(), Location.of(out).path
    run = RunFolder.at(path, config, resume=resume)
    if (done := run.result()) is not None:
        say(f"{path} is done already")
        return done
    draw = training.draw()
    start = time.perf_counter()
    learner = training.create(draw)
    run.begin(config, training.data.cache.path)
    run.write("labels.json", draw.record(training.options.data))
    learner.save_task(run.task)
    training.learn(learner, draw, run)
    seconds = time.perf_counter() - start
    result = _result(training, draw, learner, run) | {"seconds": round(seconds, 3)}
    run.write(RESULT, result)
    return result


def _open(request: TrainRequest, pool: DataPool, say: Say, watch: Watch) -> _Training:
    refuse_seed(request.seed)
    options = parse_options(request.objective, request.options or {})
    data = pool.data(request.cache, options.data)
    refuse_missing_cls(data.cache, options)
    return _Training(request, options, data, pool.replay(data, options.data), say, watch)


def _result(training: _Training, draw: Draw, learner: Learner, run: RunFolder) -> dict[str, Any]:
    wanted = training.options.cv or learner.default_folds
    held_out = cross_validate(draw, wanted, lambda number, part: training.train_fold(number, part, run))
    report = self_report(learner, draw, held_out, training.replay)
    for folder in run.path.glob("fold=*"):
        shutil.rmtree(folder)
    request, cache = training.request, training.data.cache
    return report | {
        "objective": request.objective,
        "seed": request.seed,
        "num_labels": len(draw.split.labelled),
        "labels_per_class": request.labels_per_class,
        "encoder": cache.spec.encoder.name,
        "fingerprint": cache.fingerprint,
    }
