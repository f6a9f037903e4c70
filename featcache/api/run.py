"""The public class of a finished run."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from featcache.api.cache import Cache, Split
from featcache.api.html import facts_table
from featcache.api.predictions import Predictions
from featcache.cache.reader import WRITTEN
from featcache.devices import resolve
from featcache.errors import CacheError, TrainError
from featcache.location import Location
from featcache.runs.run import RunFolder
from featcache.training.learner import Learner
from featcache.training.learners import load_learner
from featcache.training.prediction import open_store, predict_rows, require_fitting


class Run(RunFolder):
    """A finished training: its folder, its result, and a model that predicts."""

    @classmethod
    def open(cls, place: str | os.PathLike[str] | Location) -> Run:
        """Open the run in a folder; raises TrainError if there is none, or if it is not finished."""
        return cls.finished(Location.of(place).path)

    @property
    def objective(self) -> str:
        """The name of the objective."""
        return str(self.config()["objective"])

    @property
    def figures(self) -> dict[str, Any]:
        """The content of result.json: `test`, `temperature`, `held_out`, `scores` and more."""
        result = self.result()
        if result is None:
            raise TrainError(f"the run {self.path} is not finished")
        return result

    @property
    def accuracy(self) -> float:
        """The share of samples that are predicted right: test samples, those set aside, or an estimate.

        Raises TrainError if there are too few labels for an estimate.
        """
        figures = self.figures
        found = next(
            (figures[name]["accuracy"] for name in ("test", "holdout", "estimate") if name in figures), None
        )
        if found is None:
            raise TrainError(f"the labels of {self.path} are too few to estimate its accuracy")
        return float(found)

    def __repr__(self) -> str:
        facts = ", ".join(f"{name} {value}" for name, value in self._facts().items())
        return f"<Run {self.path}: {facts}>"

    def _repr_html_(self) -> str:
        return facts_table(f"Run {self.path}", self._facts())

    def predict(
        self, data: Split | Cache | str | os.PathLike[str], *, view: str = "eval", device: str = "auto"
    ) -> Predictions:
        """Predict every sample of a split, or of all splits of a cache, under one view.

        The cache must come from the same model, with the same layer and tokens; a probe needs only the same
        model. Raises CacheMismatch with the field that differs, and CacheError if a split is not complete.
        Raises ConfigError if the cache does not hold the view.
        """
        splits = _splits(data)
        for split in splits:
            split.check()
        learner = load_learner(self, resolve(device))
        for split in splits:
            require_fitting(learner, split.cache)
        parts = [_predict(learner, split, view) for split in splits]
        if len(parts) == 1:
            return parts[0]
        names = ("split", "id", "label", "truth", "probabilities", "z")
        joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
        return Predictions(parts[0].classes, **joined)

    def _facts(self) -> dict[str, str]:
        figures = self.figures
        judged = "not estimated"
        if (test := figures.get("test", figures.get("holdout"))) is not None:
            judged = f"{100 * test['accuracy']:.2f} % of {test['samples']}"
        elif (estimate := figures.get("estimate")) is not None:
            judged = f"{100 * estimate['low']:.0f} to {100 * estimate['high']:.0f} % (estimate)"
        return {
            "objective": self.objective,
            "labels": str(figures["num_labels"]),
            "seed": str(figures["seed"]),
            "accuracy": judged,
        }


def _splits(data: Split | Cache | str | os.PathLike[str]) -> list[Split]:
    if isinstance(data, Split):
        return [data]
    cache = data if isinstance(data, Cache) else Cache.open(data)
    if not cache.splits:
        raise CacheError(f"the cache {cache.storage} has no split yet")
    return [cache[name] for name in cache.splits]


def _predict(learner: Learner, split: Split, view: str) -> Predictions:
    number, classes = split.view(view), learner.origin.class_names
    store = open_store(learner, split.cache, split.name)
    rows = np.flatnonzero(split.status[:, number] == WRITTEN)
    probabilities = np.full((split.rows, len(classes)), np.nan)
    z = np.full((split.rows, learner.origin.features.pooled), np.nan, np.float32)
    label = np.full(split.rows, None, object)
    for part, outputs in predict_rows(learner, store, rows, number):
        probabilities[part] = outputs.log_probs.double().exp().numpy()
        z[part] = outputs.z.float().numpy()
        label[part] = np.array(classes, object)[outputs.log_probs.argmax(1).numpy()]
    names = np.array([*split.class_names, None], object)
    return Predictions(
        classes=classes,
        split=np.full(split.rows, split.name, object),
        id=np.array(split.ids, object),
        label=label,
        truth=names[split.labels],
        probabilities=probabilities,
        z=z,
    )
