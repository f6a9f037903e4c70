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
from featcache.cache.reader import WRITTEN, Cache
from featcache.devices import resolve
from featcache.errors import TrainError
from featcache.loading.loader import Loader
from featcache.loading.splits import LabelSplit, draw_labels
from featcache.loading.store import FeatureStore, reside
from featcache.nn.projector import Projector
from featcache.objectives.base import Features, Objective, Probe, ProbeData, Task
from featcache.runs.run import RESULT, MetricLog, Run
from featcache.training import evaluate
from featcache.training.loop import fit, predictor
from featcache.training.metrics import evaluate as figures
from featcache.training.options import TrainOptions
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

    Test labels are read once, at the end. Raises a FeatcacheError, before anything is written, when the cache is not
    whole, the labels do not suffice, an option does not fit, or `out` holds something else.
    """
    job = _Job(request, resolve(device), say)
    run = Run.begin(out, job.config(), resume=resume)
    if (done := run.result()) is not None:
        say(f"{out} is done already")
        return done
    run.write("labels.json", job.label_record())
    start = time.perf_counter()
    predict = job.probe() if job.is_probe else job.fit(run)
    seconds = time.perf_counter() - start
    result = job.result(predict, seconds)
    run.write(RESULT, result)
    return result


class _Job:
    """What one training needs, opened and checked before anything is written."""

    def __init__(self, request: TrainRequest, device: torch.device, say: Say) -> None:
        self.request, self.device, self.say = request, device, say
        self.kind: type[Objective[Any]] | type[Probe[Any]] = plugins.find(
            "objectives", request.objective
        ).objective
        self.options = TrainOptions.parse(request.options or {}, "the training options")
        self.objective_options = self.kind.Options.parse(
            self.options.objective, f"the options of `{request.objective}`"
        )
        self.cache = Cache.open(request.cache)
        data = self.options.data
        self.train_split, self.test_split = self.cache.split(data.train), self.cache.split(data.test)
        _refuse_leak(data.train, data.test)
        for split in (self.train_split, self.test_split):
            split.check()
        self.labels = draw_labels(
            self.train_split.labels,
            self.cache.class_names,
            seed=request.seed,
            labels_per_class=request.labels_per_class,
            num_labels=request.num_labels,
            usable=(self.train_split.status == WRITTEN).all(1),
        )
        self.test_rows = np.flatnonzero(
            (self.test_split.status[:, 0] == WRITTEN) & (self.test_split.labels >= 0)
        )
        _refuse_unlabelled_test(len(self.test_rows), data.test)
        self.train_store = FeatureStore.open(self.cache, data.train, data.layer)
        self.test_store = FeatureStore.open(self.cache, data.test, data.layer)

    @property
    def is_probe(self) -> bool:
        return issubclass(self.kind, Probe)

    def config(self) -> dict[str, Any]:
        """Everything the result depends on: two equal configurations are the same run."""
        options = self.options.model_copy(
            update={"objective": self.objective_options.model_dump(mode="json")}
        )
        return {
            "objective": self.request.objective,
            "seed": self.request.seed,
            "labels_per_class": self.request.labels_per_class,
            "num_labels": self.request.num_labels,
            "cache": self.cache.fingerprint,
            "splits": {s.name: s.spec.model_dump() for s in (self.train_split, self.test_split)},
            "device": self.device.type,
            "options": options.model_dump(mode="json"),
        }

    def label_record(self) -> dict[str, Any]:
        """Which samples were labelled, by row and by id, so that the draw can be repeated anywhere."""
        rows = self.labels.labelled
        return {"rows": rows.tolist(), "ids": [self.train_split.ids[row] for row in rows]}

    def probe(self) -> evaluate.Predict:
        """Fit on pooled embeddings at once."""
        rows = self.labels.labelled
        data = ProbeData(
            evaluate.pooled(self.train_store, rows, self.device),
            torch.from_numpy(self.train_split.labels[rows]),
            len(self.cache.class_names),
            _unit_text(self.cache),
        )
        assert issubclass(self.kind, Probe)
        fitted = self.kind(self.objective_options).fit(data, self.request.seed)
        return lambda features: fitted(features.pooled.float().cpu())

    def fit(self, run: Run) -> evaluate.Predict:
        """Train projector, heads and critics step by step."""
        stores = (
            [self.train_store] if self.train_store is self.test_store else [self.train_store, self.test_store]
        )
        self.say(f"features: {reside(stores, self.options.data.residency, self.device)}")
        state = self._state()
        if run.checkpoint.exists():
            state.load(run.checkpoint)
            self.say(f"resumed at step {state.step}")
        with MetricLog(run, state.step) as log:

            def report(step: int, terms: Mapping[str, float]) -> None:
                log(step, terms)
                self.say(f"step {step}/{self.options.optim.steps}  loss {terms['loss']:.4f}")

            fit(
                state,
                self._loader(state),
                self.options,
                seed=self.request.seed,
                device=self.device,
                log=report,
                save=lambda: state.save(run.checkpoint),
            )
        state.save(run.checkpoint)
        return predictor(*state.evaluated())

    def _state(self) -> TrainState:
        """Projector first: the heads start from what it gives at step 0."""
        generator = torch.Generator().manual_seed(self.request.seed)
        dim, pooled_dim = (self.train_store.columns[name].array.shape[-1] for name in ("tokens", "pooled"))
        projector = Projector(self.options.projector, dim, pooled_dim, generator).to(self.device)
        labels = self.train_split.labels[self.labels.labelled]
        counts = np.bincount(labels, minlength=len(self.cache.class_names))
        task = Task(
            num_classes=len(self.cache.class_names),
            dim=pooled_dim,
            pooled_dim=pooled_dim,
            num_unlabelled=len(self.labels.unlabelled),
            label_counts=torch.from_numpy(counts),
            class_init=self._class_init(projector, torch.from_numpy(labels)),
            seed=self.request.seed,
        )
        assert issubclass(self.kind, Objective)
        objective = self.kind(self.objective_options, task).to(self.device)
        return TrainState(projector, objective, self.options.optim)

    def _class_init(self, projector: Projector, labels: Tensor) -> Tensor:
        """Class-name embeddings where there are some, else labelled class means of unit-length z (zeros: unseen class)."""
        text = _unit_text(self.cache)
        if text is not None:
            return text
        z = F.normalize(_project(projector, self.train_store, self.labels, self.device), dim=1)
        sums = torch.zeros(len(self.cache.class_names), z.shape[1]).index_add_(0, labels, z)
        return F.normalize(sums, dim=1)

    def _loader(self, state: TrainState) -> Loader:
        objective = state.model["objective"]
        assert isinstance(objective, Objective)
        families = {name.rstrip("0123456789") for name in self.train_store.view_names}
        return Loader.build(
            self.train_store,
            self.train_split.labels,
            (self.labels.labelled, self.labels.unlabelled),
            objective.views(sorted(families)),
            batch_size=self.options.optim.batch_size,
            uratio=self.options.optim.uratio,
            seed=self.request.seed,
            device=self.device,
        )

    def result(self, predict: evaluate.Predict, seconds: float) -> dict[str, Any]:
        """The honest figures: test rows only, all of them that could be read."""
        log_probs = evaluate.log_probs(predict, self.test_store, self.test_rows, self.device)
        truth = self.test_split.labels[self.test_rows]
        return {
            "objective": self.request.objective,
            "seed": self.request.seed,
            "num_labels": len(self.labels.labelled),
            "labels_per_class": self.request.labels_per_class,
            "test": figures(log_probs, truth, self.cache.class_names),
            "seconds": round(seconds, 3),
            "encoder": self.cache.spec.encoder["name"],
            "fingerprint": self.cache.fingerprint,
        }


def _unit_text(cache: Cache) -> Tensor | None:
    text = cache.class_text
    return None if text is None else F.normalize(torch.from_numpy(text).float(), dim=1)


def _project(projector: Projector, store: FeatureStore, labels: LabelSplit, device: torch.device) -> Tensor:
    return evaluate.map_rows(projector, store, labels.labelled, device)


def _refuse_leak(train: str, test: str) -> None:
    if train == test:
        raise TrainError(
            "the training and the test split are the same",
            got=train,
            expected="two splits: test rows never take part in training",
            hint="extract a test split into the cache, or name it with --set data.test=...",
        )


def _refuse_unlabelled_test(rows: int, name: str) -> None:
    if not rows:
        raise TrainError(
            f"the split `{name}` has no labelled, readable row to report on",
            hint="extract a labelled test split, or name another with --set data.test=...",
        )
