"""Predictions of a run for the samples of a cache."""

from __future__ import annotations

import html
import importlib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.errors import MissingExtra

UNSURE_BELOW = 0.8
"""Calibrated confidence below which a prediction is unsure: it is wrong more often than once in five."""
NOVEL_FROM = 0.95
"""Novelty from which a sample is unusual: as one in twenty of the run's own training samples."""


@dataclass(frozen=True, repr=False, eq=False)
class Predictions:
    """Predictions of N samples, in the order of the cache's rows.

    A row that failed in extraction has the label None, and NaN as probabilities, novelty and z.
    """

    classes: tuple[str, ...]
    """The names of the C classes of the run."""
    split: NDArray[np.object_]
    """(N,) names of the samples' splits."""
    id: NDArray[np.object_]
    """(N,) sample ids."""
    label: NDArray[np.object_]
    """(N,) names of the predicted classes."""
    truth: NDArray[np.object_]
    """(N,) names of the true classes; None for a sample without a label."""
    probabilities: NDArray[np.float64]
    """(N, C) calibrated probabilities of the classes, from 0 to 1: at the temperature that the run fitted."""
    z: NDArray[np.float32]
    """(N, d) representations: z of a trained projector, or the frozen embedding for a probe."""
    learned: NDArray[np.bool_]
    """(N,) True for the samples whose labels the run has learned from."""
    novelty: NDArray[np.float64] | None = None
    """(N,) the share of the run's own training samples that are less unusual, from 0 to 1. None for a run
    of an earlier version."""
    within: NDArray[np.bool_] | None = None
    """(N, C) True for the classes in the set of a sample; None if no coverage was asked for."""
    unsure_below: float = UNSURE_BELOW
    """A prediction with a smaller confidence is unsure."""

    @property
    def confidence(self) -> NDArray[np.float64]:
        """(N,) probabilities of the predicted classes."""
        found: NDArray[np.float64] = self.probabilities.max(1)
        return found

    @property
    def second(self) -> NDArray[np.object_]:
        """(N,) names of the second most probable classes; None for a run of one class."""
        return np.array([*self.classes, None], object)[_second(self)]

    @property
    def second_confidence(self) -> NDArray[np.float64]:
        """(N,) probabilities of the second most probable classes."""
        chosen = _second(self)
        found = self.probabilities[np.arange(len(self)), np.maximum(chosen, 0)]
        return np.where(chosen < 0, np.nan, found)

    @property
    def sets(self) -> list[tuple[str, ...] | None] | None:
        """N tuples of class names, the most probable first, which hold the true class with the coverage that
        was asked for. None without a coverage, and for a row that failed."""
        if self.within is None:
            return None
        order = np.argsort(-self.probabilities, axis=1, kind="stable")
        return [
            None if name is None else tuple(self.classes[c] for c in row if held[c])
            for name, row, held in zip(self.label, order, self.within, strict=True)
        ]

    @property
    def unsure(self) -> NDArray[np.bool_]:
        """(N,) True where a person should look.

        The confidence is below `unsure_below`, the novelty is at least NOVEL_FROM, or the set has several
        classes. False for a row that failed.
        """
        found = np.asarray(self.confidence < self.unsure_below)
        if self.novelty is not None:
            found |= self.novelty >= NOVEL_FROM
        if self.within is not None:
            found |= self.within.sum(1) > 1
        return np.asarray(found & self.predicted)

    @property
    def predicted(self) -> NDArray[np.bool_]:
        """(N,) False for a row that failed in extraction."""
        return np.array([name is not None for name in self.label], bool)

    @property
    def accuracy(self) -> float | None:
        """The share of labelled samples that are predicted right; None if no sample is labelled.

        It is too high if the run has learned from some of these labels: `learned` says from which.
        """
        judged = self.judged
        return float((self.label[judged] == self.truth[judged]).mean()) if judged.any() else None

    @property
    def judged(self) -> NDArray[np.bool_]:
        """(N,) True for samples with a prediction and a label."""
        return np.asarray(self.predicted & np.array([name is not None for name in self.truth], bool))

    def __len__(self) -> int:
        return len(self.id)

    def __getitem__(self, rows: Any) -> Predictions:
        """Return the predictions of some rows, by numbers, a mask or a slice."""
        if isinstance(rows, (int, np.integer)):
            rows = slice(int(rows), int(rows) + 1 or None)
        kept: dict[str, Any] = {name: value[rows] for name, value in _by_row(self).items()}
        return replace(self, **kept)

    def __repr__(self) -> str:
        return _described(self)

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(repr(self))}</p>"

    def to_pandas(self, *, probabilities: bool = False) -> Any:
        """Return a pandas DataFrame with the columns of the table; `label` is called `truth` as here.

        Raises MissingExtra if pandas is not installed.
        """
        try:
            pandas = importlib.import_module("pandas")
        except ImportError:
            raise MissingExtra("the package `pandas` is not installed", hint="pip install pandas") from None
        given = columns(self, probabilities=probabilities)
        return pandas.DataFrame({"truth" if name == "label" else name: c for name, c in given.items()})


def _second(given: Predictions) -> NDArray[np.int64]:
    """Return the (N,) numbers of the second most probable classes; -1 for none."""
    if len(given.classes) < 2:
        return np.full(len(given), -1)
    # Stable, as `argmax` also chooses the first of equal ones.
    return np.where(given.predicted, np.argsort(-given.probabilities, 1, kind="stable")[:, 1], -1)


def _by_row(given: Predictions) -> dict[str, NDArray[Any]]:
    """Return the fields that have a value for each sample."""
    found = {field.name: getattr(given, field.name) for field in fields(given)}
    return {name: value for name, value in found.items() if isinstance(value, np.ndarray)}


def _described(given: Predictions) -> str:
    accuracy = "" if given.accuracy is None else f", accuracy {100 * given.accuracy:.2f} %"
    learned = int((given.judged & given.learned).sum())
    seen = f" of {int(given.judged.sum())} labelled, {learned} of them learned from" if learned else ""
    unknown = sorted({str(name) for name in given.truth if name is not None} - {*given.classes})
    wrong = f" (wrong by necessity, of classes unknown to the run: {', '.join(unknown)})" if unknown else ""
    return f"<Predictions of {len(given)} samples, {len(given.classes)} classes{accuracy}{seen}{wrong}>"


def columns(given: Predictions, *, probabilities: bool = False) -> dict[str, NDArray[Any]]:
    """Return the columns of a table by name, (N,) each; docs/predict.md explains them.

    `probabilities` adds a column `p:CLASS` for each class.
    """
    found = {"split": given.split, "id": given.id, "prediction": given.label, "confidence": given.confidence}
    found |= {"label": given.truth, "second": given.second, "second_confidence": given.second_confidence}
    sure: NDArray[np.object_] = given.unsure.astype(object)
    sure[~given.predicted] = None
    found["unsure"] = sure
    if given.novelty is not None:
        found["novelty"] = given.novelty
    if given.sets is not None:
        found["set"] = np.array([None, *given.sets], object)[1:]
    if probabilities:
        found |= {f"p:{name}": given.probabilities[:, c] for c, name in enumerate(given.classes)}
    return found


def joined(parts: Sequence[Predictions]) -> Predictions:
    """Return the predictions of several splits, or of several runs of rows, as one."""
    if len(parts) == 1:
        return parts[0]
    rows = [_by_row(part) for part in parts]
    whole: dict[str, Any] = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    return replace(parts[0], **whole)
