"""`featcache train`: a cache, an objective and a label budget become a run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from featcache import plugins
from featcache.cache.reader import WRITTEN, CacheReader
from featcache.devices import resolve
from featcache.loading.loader import Loader
from featcache.loading.plan import family_of
from featcache.loading.replay import ReplayCache
from featcache.loading.splits import choose_classes, draw_labels, long_tail
from featcache.loading.store import FeatureStore, reside
from featcache.objectives.base import Objective, Probe, ProbeData, Task
from featcache.runs.run import RESULT, MetricLog, Run
from featcache.stages.checks import (
    refuse_leak,
    refuse_missing_cls,
    refuse_seed,
    refuse_unlabelled_test,
    whole_split,
)
from featcache.stages.judge import judge
from featcache.training import head_init, predictor
from featcache.training.learner import Kind, Origin, build, save_task
from featcache.training.loop import fit
from featcache.training.metrics import evaluate as figures
from featcache.training.metrics import open_set
from featcache.training.options import DataOptions, TrainOptions
from featcache.training.predictor import Labelled
from featcache.training.probing import Prober
from featcache.training.state import TrainState

Say = Callable[[str], None]


@dataclass(frozen=True)
class TrainRequest:
    """One training, fully said: the same request on the same machine gives the same result."""

    cache: Path
    objective: str
    seed: int = 0
    labels_per_class: int | None = None
    num_labels: int | None = None
    options: Mapping[str, Any] | None = None
    """Nested overrides of TrainOptions, for example {"optim": {"steps": 500}}."""


def train(
    request: TrainRequest,
    out: Path,
    *,
    device: str = "auto",
    resume: bool = False,
    say: Say = lambda line: None,
) -> dict[str, Any]:
    """Train one objective on a cache and write a run to `out`; returns the content of its result.json.

    Test labels are looked at once, at the end. Raises a FeatcacheError, before anything is written, when the
    cache is not whole, the labels do not suffice, an option does not fit, or `out` holds something else.
    """
    job = Job(request, resolve(device), say)
    run = Run.at(out, job.config(), resume=resume)
    if (done := run.result()) is not None:
        say(f"{out} is done already")
        return done
    start = time.perf_counter()
    task, origin = job.task(), job.origin()
    learner = build(job.kind, job.options, task, origin.features, seed=request.seed, device=job.device)
    run.begin(job.config())
    run.write("labels.json", job.label_record())
    save_task(run.task, task, origin)
    predict = job.learn(learner, run)
    seconds = time.perf_counter() - start
    result = job.result(predict, run, seconds)
    if isinstance(learner, TrainState) and learner.evaluated()[1].probed:
        result["probes"] = job.probes(learner)
    run.write(RESULT, result)
    return result


def objective_class(objective: str) -> Kind:
    """The class that implements an objective; raises ConfigError with the nearest known name."""
    kind: Kind = plugins.find("objectives", objective).objective
    return kind


def parse_options(objective: str, options: Mapping[str, Any]) -> TrainOptions:
    """Every option of a training, its objective's included; raises ConfigError for one that does not fit."""
    parsed = TrainOptions.parse(options, "the training options")
    own = objective_class(objective).Options.parse(parsed.objective, f"the options of `{objective}`")
    return parsed.model_copy(update={"objective": own.model_dump(mode="json")})


class Job:
    """What one training needs, opened and checked before anything is written."""

    def __init__(self, request: TrainRequest, device: torch.device, say: Say) -> None:
        self.request, self.device, self.say = request, device, say
        refuse_seed(request.seed)
        self.kind = objective_class(request.objective)
        self.options = parse_options(request.objective, request.options or {})
        self.cache = CacheReader.open(request.cache)
        data = self.options.data
        refuse_leak(data.train, data.test)
        self.train_split = whole_split(self.cache, "train", data.train)
        self.test_split = whole_split(self.cache, "test", data.test)
        self._draw(data)
        readable = self.test_split.status[:, 0] == WRITTEN
        self.test_labels = self.classes.numbered(self.test_split.labels)
        self.test_rows = np.flatnonzero(readable & (self.test_labels >= 0))
        self.unknown_rows = np.flatnonzero(readable & np.isin(self.test_split.labels, self.classes.unknown))
        refuse_unlabelled_test(len(self.test_rows), data.test)
        refuse_missing_cls(self.cache, self.options)
        self.train_store = FeatureStore.open(self.cache, data.train, data.layer)
        self.test_store = FeatureStore.open(self.cache, data.test, data.layer)
        self.second: ReplayCache | None = None
        if data.replay:
            names, like = (data.replay_split, data.replay_test), self.cache.features(data.layer)
            self.second = ReplayCache.open(data.replay, *names, like=like, held_out=self.test_split.spec)

    def _draw(self, data: DataOptions) -> None:
        """Which classes there are, and which rows; from here on, classes have the numbers of the task."""
        seed, labels, names = self.request.seed, self.train_split.labels, self.cache.class_names
        unknown, missing = data.unknown_classes, data.missing_classes
        self.classes = choose_classes(len(names), unknown=unknown, missing=missing, seed=seed)
        drawn = draw_labels(
            labels,
            names,
            seed=seed,
            labels_per_class=self.request.labels_per_class,
            num_labels=self.request.num_labels,
            usable=(self.train_split.status == WRITTEN).all(1),
            without={*self.classes.unknown.tolist(), *self.classes.missing.tolist()},
        )
        self.labels = long_tail(drawn, labels, ratio=data.imbalance, seed=seed)
        self.train_labels = self.classes.numbered(labels)
        self.class_names = tuple(names[c] for c in self.classes.known)

    def config(self) -> dict[str, Any]:
        """Everything the result depends on: two equal configurations are the same run."""
        options = self.options.model_dump(mode="json")
        # A cache is what it holds, not where it lies.
        options["data"]["replay"] = None
        return {
            "objective": self.request.objective,
            "seed": self.request.seed,
            "labels_per_class": self.request.labels_per_class,
            "num_labels": self.request.num_labels,
            "cache": self.cache.fingerprint,
            "splits": {s.name: s.spec.model_dump() for s in (self.train_split, self.test_split)},
            "device": self.device.type,
            "options": options,
            **({"replay": self.second.record()} if self.second else {}),
        }

    def label_record(self) -> dict[str, Any]:
        """Which samples were labelled, by row and by id, so that the draw can be repeated anywhere.

        Where a case was constructed, also the names of its classes and the rows that stay unlabelled.
        """
        rows, data, names = self.labels.labelled, self.options.data, self.cache.class_names
        record: dict[str, Any] = {"rows": rows.tolist(), "ids": [self.train_split.ids[row] for row in rows]}
        if data.imbalance > 1 or data.unknown_classes or data.missing_classes:
            record["unknown"] = [names[c] for c in self.classes.unknown]
            record["missing"] = [names[c] for c in self.classes.missing]
            record["unlabelled_rows"] = self.labels.unlabelled.tolist()
        return record

    def origin(self) -> Origin:
        """What another cache must have in common with this one to be predicted from."""
        features = self.cache.features(self.options.data.layer)
        return Origin(features=features, class_names=self.class_names)

    def task(self) -> Task | ProbeData:
        """What the objective is told of the data."""
        return self._probe_data() if issubclass(self.kind, Probe) else self._task()

    def _probe_data(self) -> ProbeData:
        rows = self.labels.labelled
        return ProbeData(
            predictor.pooled(self.train_store, rows),
            torch.from_numpy(self.train_labels[rows]),
            len(self.class_names),
            self._unit_text(),
        )

    def learn(self, learner: TrainState | predictor.Predict, run: Run) -> predictor.Predict:
        """What predicts: a probe as it is, projector and heads after their training."""
        return self.fit(learner, run) if isinstance(learner, TrainState) else learner

    def fit(self, state: TrainState, run: Run) -> predictor.Predict:
        """Train projector, heads and critics step by step."""
        # Test rows are read once: from disk, where they are.
        self._reside(self.train_store, "features")
        loader = self.loader(state)
        if loader.replay:
            self._reside(loader.replay[0], "features of the second cache")
        if run.checkpoint.exists():
            state.load(run.checkpoint)
            self.say(f"resumed at step {state.step}")
        with MetricLog(run, state.step) as log:

            def report(step: int, terms: Mapping[str, float]) -> None:
                log(step, terms)
                self.say(f"step {step}/{self.options.optim.steps}  loss {terms['loss']:.4f}")

            fit(
                state,
                loader,
                self.options,
                seed=self.request.seed,
                device=self.device,
                log=report,
                save=lambda: state.save(run.checkpoint),
            )
        predictor.finish(state, self.known(), self.device)
        state.save(run.checkpoint)
        return predictor.of_state(state, self.device)

    def _reside(self, store: FeatureStore, what: str) -> None:
        if store.columns["tokens"].resident is None:  # a fold finds it where it is
            self.say(f"{what}: {reside(store, self.options.data.residency, self.device)}")

    def known(self) -> Labelled:
        """The labelled rows."""
        rows = self.labels.labelled
        return Labelled(self.train_store, rows, self.train_labels[rows])

    def probes(self, state: TrainState) -> dict[str, float]:
        """What probes make of z* and of z, on the test rows of the target and of the second cache."""
        test = Labelled(self.test_store, self.test_rows, self.test_labels[self.test_rows])
        prober = Prober(state.evaluated()[0], self.request.seed, self.device)
        figures = prober.target(self.known(), test, len(self.class_names))
        return figures | (prober.source(self.second) if self.second else {})

    def _task(self) -> Task:
        labels = self.train_labels[self.labels.labelled]
        center = head_init.center_of(predictor.pooled(self.train_store, self.labels.unlabelled))
        pooled = predictor.pooled(self.train_store, self.labels.labelled)
        counts = np.bincount(labels, minlength=len(self.class_names))
        return Task(
            num_classes=len(self.class_names),
            dim=len(center),
            pooled_dim=len(center),
            num_unlabelled=len(self.labels.unlabelled),
            label_counts=torch.from_numpy(counts),
            center=center,
            class_init=head_init.class_directions(
                pooled, torch.from_numpy(labels), center, len(self.class_names), self._unit_text()
            ),
            seed=self.request.seed,
        )

    def _unit_text(self) -> Tensor | None:
        """(C, P) embeddings of the names of the task's classes, of unit length."""
        text = self.cache.class_text
        return (
            None if text is None else F.normalize(torch.from_numpy(text[self.classes.known]).float(), dim=1)
        )

    def loader(self, state: TrainState) -> Loader:
        """The batches that the objective in `state` asks for, in the order of this training."""
        objective = state.model["objective"]
        assert isinstance(objective, Objective)
        families = {family_of(name) for name in self.train_store.view_names}
        return Loader.build(
            self.train_store,
            self.train_labels,
            (self.labels.labelled, self.labels.unlabelled),
            objective.views(sorted(families)),
            batch_size=self.options.optim.batch_size,
            uratio=self.options.optim.uratio,
            seed=self.request.seed,
            device=self.device,
            replay=(self.second.store, self.second.rows) if self.second else None,
            replay_ratio=self.options.data.replay_ratio,
            token_subset=self.options.data.token_subset,
        )

    def result(self, predict: predictor.Predict, run: Run, seconds: float) -> dict[str, Any]:
        """The honest figures: test rows of the task's classes only, all of them that could be read."""
        log_probs = predict(self.test_store, self.test_rows).double().numpy()
        truth = self.test_labels[self.test_rows]
        said = judge(self, predict, run, log_probs)
        result = {
            **said,
            "objective": self.request.objective,
            "seed": self.request.seed,
            "num_labels": len(self.labels.labelled),
            "labels_per_class": self.request.labels_per_class,
            "test": figures(log_probs, truth, self.class_names) | said["test"],
            "seconds": round(seconds, 3),
            "encoder": self.cache.spec.encoder.name,
            "fingerprint": self.cache.fingerprint,
        }
        if len(self.unknown_rows):
            unknown = predict(self.test_store, self.unknown_rows).double().numpy()
            result["open_set"] = open_set(log_probs, unknown)
        return result
