"""The public class of a finished run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.api.cache import Cache, Split
from featcache.api.html import facts_table
from featcache.api.predictions import UNSURE_BELOW, Predictions, joined
from featcache.cache.reader import WRITTEN
from featcache.devices import resolve
from featcache.errors import CacheError, ConfigError, TrainError, option
from featcache.location import Location
from featcache.runs.run import RunFolder
from featcache.training.prediction import ROWS, Part, Predictor


class Run(RunFolder):
    """A finished training: its folder, its result, and a model that predicts."""

    trust = False
    """True if the code of an own objective, which the folder holds a copy of, may be run."""

    @classmethod
    def open(cls, place: str | os.PathLike[str] | Location, *, trust: bool = False) -> Run:
        """Open the run in a folder; raises TrainError if there is none, or if it is not finished.

        The code of an own objective, which the folder holds a copy of, is not run without `trust`.
        """
        run = cls.finished(Location.of(place).path)
        run.trust = trust
        return run

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

        Raises TrainError if there is none of these, or if there are too few labels for an estimate.
        """
        figures = self.figures
        found = next(
            (figures[name]["accuracy"] for name in ("test", "holdout", "estimate") if name in figures), None
        )
        if found is None:
            raise TrainError(
                f"the accuracy of {self.path} is not known",
                got="no test, and too few labels or no cross-validation to estimate it",
            )
        return float(found)

    def __repr__(self) -> str:
        facts = ", ".join(f"{name} {value}" for name, value in self._facts().items())
        return f"<Run {self.path}: {facts}>"

    def _repr_html_(self) -> str:
        return facts_table(f"Run {self.path}", self._facts())

    def predict(
        self,
        data: Split | Cache | str | os.PathLike[str],
        *,
        view: str = "eval",
        coverage: float | None = None,
        unsure_below: float = UNSURE_BELOW,
        device: str = "auto",
    ) -> Predictions:
        """Predict every sample of a split, or of all splits of a cache, under one view.

        Probabilities are calibrated: the temperature that the run fitted is applied. With a `coverage` such
        as 0.9, `sets` has sets of classes that hold the true class so often. A prediction with a confidence
        below `unsure_below` is `unsure`.

        The cache must come from the same model, with the same layer and tokens; a probe needs only the same
        model. Raises CacheMismatch with the field that differs, and CacheError if a split is not complete.
        Raises ConfigError if the cache does not hold the view, and TrainError if the labels of the run do not
        suffice to promise the coverage.
        """
        splits = _splits(data)
        for split in splits:
            split.check()
        predictor = self.predictor(device, coverage)
        for split in splits:
            predictor.require_fitting(split.cache)
        return joined([part for split in splits for part in parts(predictor, split, view, unsure_below)])

    def predictor(self, device: str = "auto", coverage: float | None = None) -> Predictor:
        """Load what predictions need."""
        share = None if coverage is None else share_of("coverage", coverage)
        return Predictor.open(self, resolve(device), share, trust=self.trust)

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


def parts(
    predictor: Predictor,
    split: Split,
    view: str = "eval",
    unsure_below: float = UNSURE_BELOW,
    chosen: NDArray[np.int64] | None = None,
) -> Iterator[Predictions]:
    """Predict a split, or its sorted `chosen` rows, some thousand at a time, in order and with failed rows.

    Raises ConfigError at once if `unsure_below` is no share.
    """
    below = share_of("unsure_below", unsure_below)
    number, store = split.view(view), predictor.open_store(split.cache, split.name)
    ids, status = np.array(split.ids, object), split.status[:, number]
    truth, learned = _labels(predictor, split)
    asked = np.arange(split.rows) if chosen is None else chosen
    for start in range(0, max(len(asked), 1), ROWS):
        rows = asked[start : start + ROWS]
        readable = status[rows] == WRITTEN
        part = predictor.part(store, rows[readable], number) if readable.any() else None
        yield Predictions(
            classes=predictor.class_names,
            split=np.full(len(rows), split.name, object),
            id=ids[rows],
            truth=truth[rows],
            learned=learned[rows],
            unsure_below=below,
            **filled(predictor, readable, part),
        )


def filled(predictor: Predictor, readable: NDArray[np.bool_], part: Part | None) -> dict[str, Any]:
    """Return the fields of Predictions for some rows, of which `part` has the readable ones.

    The others have no label and NaN.
    """
    classes, width, count = predictor.class_names, predictor.learner.origin.features.pooled, len(readable)
    found: dict[str, Any] = {
        "label": np.full(count, None, object),
        "probabilities": np.full((count, len(classes)), np.nan),
        "z": np.full((count, width), np.nan, np.float32),
        "novelty": None if predictor.reference is None else np.full(count, np.nan),
        "within": None if predictor.threshold is None else np.zeros((count, len(classes)), bool),
    }
    if part is not None:
        found["label"][readable] = np.array(classes, object)[part.probabilities.argmax(1)]
        for name in ("probabilities", "z", "novelty", "within"):
            if found[name] is not None:
                found[name][readable] = getattr(part, name)
    return found


def _labels(predictor: Predictor, split: Split) -> tuple[NDArray[np.object_], NDArray[np.bool_]]:
    """Return (N,) names of classes or None, and (N,) True for the samples that the run has learned from.

    They are found by their ids. If these are the samples of the training, they have the label that the run
    has learned, which may come from a table of labels and not be in the cache. In other samples, an id such
    as `IMG_0001.png` may be another photo, so only the label of the cache counts.
    """
    names = np.array([*split.class_names, None], object)[split.labels]
    if split.name != predictor.learned_split:
        return names, np.zeros(split.rows, bool)
    learned = np.array([name in predictor.learned for name in split.ids], bool)
    if split.spec.model_dump() != predictor.learned_spec:
        return names, learned
    own = [predictor.learned.get(name) for name in split.ids]
    return np.array([b if a is None else a for a, b in zip(own, names, strict=True)], object), learned


def share_of(name: str, value: object) -> float:
    """Return a number above 0 and below 1; raises ConfigError for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1:
        raise ConfigError(
            f"{option(name)} is not a share", got=repr(value), expected="above 0 and below 1, such as 0.9"
        )
    return float(value)
