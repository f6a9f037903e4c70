"""`featcache train`: train one objective on a cache with a few labels, and test it."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from featcache.cache.reader import CacheReader
from featcache.config import nest
from featcache.devices import resolve
from featcache.library.run import Run
from featcache.loading.replay import ReplayCache
from featcache.location import Location
from featcache.progress import MakeProgress, bar, silent
from featcache.runs.run import RESULT, RunFolder
from featcache.training.checks import refuse_missing_cls, refuse_seed
from featcache.training.cross_validation import cross_validate
from featcache.training.data import DataPool, Draw, Say, TrainingData
from featcache.training.journal import RunJournal, Watch
from featcache.training.learner import Learner
from featcache.training.learners import create_learner
from featcache.training.loop import train_learner
from featcache.training.options import TrainOptions
from featcache.training.recipe import Recipe, parse_options
from featcache.training.self_report import self_report


@dataclass(frozen=True)
class TrainRequest:
    """One training: the same request on the same machine gives the same result."""

    cache: str | os.PathLike[str] | CacheReader
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
    show: MakeProgress

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
            **({} if request.order_seed is None else {"order_seed": request.order_seed}),
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
        request = self.request
        return create_learner(Recipe(request.objective, self.options, request.seed, self.data.device), draw)

    def learn(self, learner: Learner, draw: Draw, run: RunFolder) -> None:
        """Train the learner to its last step, from its checkpoint where there is one."""
        if not learner.steps:
            return
        if run.checkpoint.exists():
            learner.resume(run.checkpoint)
            self.say(f"resumed at step {learner.steps_done}")
        title, left = f"{self.request.objective} {run.path.name}", learner.steps - learner.steps_done
        with (
            self.show(title, left, "steps") as bar,
            RunJournal(run, learner, self.watch, bar) as learner.journal,
        ):
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


def train(
    cache: str | os.PathLike[str] | CacheReader,
    objective: str,
    *,
    out: str | os.PathLike[str],
    labels_per_class: int | None = None,
    num_labels: int | None = None,
    seed: int = 0,
    order_seed: int | None = None,
    options: Mapping[str, Any] | None = None,
    device: str = "auto",
    resume: bool = False,
    progress: bool = True,
) -> Run:
    """Train one objective on a cache with a few labels, test it, and return the run at `out`.

    Give exactly one of `labels_per_class` and `num_labels`. `seed` draws the labels and seeds the training;
    `order_seed` shuffles the samples (None: as `seed`). `options` are those of `--set`, nested or dotted:
    `{"optim.steps": 500}`. With `resume`, an unfinished run goes on from its checkpoint, and a finished one
    is returned as it is. `progress` shows a bar where stderr is a terminal.

    Test labels are used once, at the end. Raises a FeatcacheError, before anything is written, when the cache
    is not complete, the labels do not suffice, an option does not fit, or `out` holds something else.

    >>> from tempfile import TemporaryDirectory
    >>> from featcache.stages.extract import extract
    >>> with TemporaryDirectory() as folder:
    ...     cache = extract("digits", "open_clip:glyph-clip", f"{folder}/c.zarr", limit=200, tokens="cls")
    ...     run = train(cache, "linear", labels_per_class=2, out=f"{folder}/run")
    ...     run.objective, run.accuracy > 0.5
    ('linear', True)
    """
    request = TrainRequest(
        cache, objective, seed, labels_per_class, num_labels, nest(options or {}), order_seed
    )
    run_training(request, out, device=device, resume=resume, show=bar if progress else silent)
    return Run.open(out)


def run_training(
    request: TrainRequest,
    out: str | os.PathLike[str],
    *,
    device: str = "auto",
    resume: bool = False,
    say: Say = lambda line: None,
    watch: Watch = lambda step, terms: None,
    show: MakeProgress = silent,
    pool: DataPool | None = None,
) -> dict[str, Any]:
    """Do what `train` does for a request; returns the content of result.json.

    `say` gets lines for a person, `watch` every logged step, and `show` makes a bar of the steps. A `pool`
    keeps the opened data for the next training, and decides about the device.
    """
    training = _open(request, pool or DataPool(resolve(device)), say, watch, show)
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


def describe(result: Mapping[str, Any]) -> str:
    """Describe the figures of a run in one line."""
    test = result["test"]
    return (
        f"{result['objective']}, {result['num_labels']} labels, seed {result['seed']}: "
        f"accuracy {100 * test['accuracy']:.2f} %, NLL {test['nll']:.3f}, ECE {test['ece']:.3f} "
        f"on {test['samples']} test samples, {result['seconds']:.1f} s"
    )


def _open(request: TrainRequest, pool: DataPool, say: Say, watch: Watch, show: MakeProgress) -> _Training:
    refuse_seed(request.seed)
    options = parse_options(request.objective, request.options or {})
    data = pool.data(request.cache, options.data)
    refuse_missing_cls(data.cache, options)
    return _Training(request, options, data, pool.replay(data, options.data), say, watch, show)


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
