"""Find out what is known when a batch is asked for: rows of a split, their labels, and a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from featcache.active.space import Rows, Vectors
from featcache.cache.labels import LabelTable, renumbered
from featcache.cache.reader import WRITTEN, CacheReader, SplitReader
from featcache.errors import ConfigError, option
from featcache.labels.table import OwnLabels
from featcache.loading.store import FeatureStore
from featcache.location import Location
from featcache.objectives.base import ProbeData
from featcache.objectives.linear import Linear, LinearOptions
from featcache.runs.run import RunFolder, cache_of, is_run
from featcache.training.outputs import pooled
from featcache.training.prediction import ROWS, Predictor

LogProbs = NDArray[np.float64]


class Model(NamedTuple):
    """A model that predicts rows of the split."""

    log_probs: Callable[[Rows], LogProbs]
    """Log-probabilities (n, C) of the classes of sorted rows, in nats."""
    class_names: tuple[str, ...]


@dataclass(frozen=True)
class Situation:
    """A split with its labels at hand."""

    cache: CacheReader
    split: SplitReader
    label: Rows
    """(N,) class index, or -1 where the label is not at hand."""
    taken: Rows
    """Sorted rows that are labelled, or set aside by the run."""
    class_names: tuple[str, ...]
    predictor: Predictor | None = None
    """The model of the run."""
    warnings: tuple[str, ...] = ()
    """What is to be said about the files of labels."""

    @property
    def readable(self) -> Rows:
        """The sorted rows that did not fail in extraction."""
        return np.flatnonzero(self.split.status[:, 0] == WRITTEN)

    @property
    def labelled(self) -> Rows:
        """The sorted rows whose label is at hand, and which did not fail."""
        return np.intersect1d(np.flatnonzero(self.label >= 0), self.readable)

    def pooled(self, rows: Rows) -> Vectors:
        """Read the pooled embeddings of sorted rows, (n, P) float32."""
        found: Vectors = pooled(FeatureStore.open(self.cache, self.split.name, None), rows).numpy()
        return found

    def model(self, seed: int) -> Model | None:
        """Return the model of the run, or a linear probe of the labels.

        Return None if there is no run, and not even two classes have a label.
        """
        if self.predictor is not None:
            return self._of_run(self.predictor)
        rows = self.labelled
        if len(np.unique(self.label[rows])) < 2:
            return None
        data = ProbeData(
            torch.from_numpy(self.pooled(rows)),
            torch.from_numpy(self.label[rows]),
            len(self.class_names),
            None,
        )
        predict = Linear(LinearOptions()).fit(data, seed)
        return Model(
            lambda asked: predict(torch.from_numpy(self.pooled(asked))).double().numpy(), self.class_names
        )

    def _of_run(self, predictor: Predictor) -> Model:
        predictor.require_fitting(self.cache)
        store = predictor.open_store(self.cache, self.split.name)

        def predict(rows: Rows) -> LogProbs:
            parts = (rows[start : start + ROWS] for start in range(0, len(rows), ROWS))
            return np.concatenate([_log(predictor.part(store, part).probabilities) for part in parts])

        return Model(predict, predictor.class_names)


def _log(probabilities: NDArray[np.float64]) -> LogProbs:
    """Return logarithms, of a tiny number in place of 0."""
    return np.log(np.maximum(probabilities, np.finfo(np.float64).tiny))


def open_situation(
    place: Location,
    read_own: Callable[[CacheReader], OwnLabels | None],
    cache: Location | None,
    split: str | None,
    device: torch.device,
    *,
    trust: bool,
) -> Situation:
    """Open a run or a cache, and find out which rows have a label.

    The labels of a run are those that it learned from, and those that `read_own` returns beside them. The
    labels of a cache are its own, or those that are returned instead.
    """
    run = RunFolder.finished(place.path) if is_run(place.path) else None
    opened = CacheReader.open(_cache_of(run, cache) if run else place.path)
    part = opened.split(split or _split_of(run))
    part.check()
    own = read_own(opened)
    files, warnings = (own.table, own.warnings) if own else (None, ())
    if run is None:
        table = opened.labels if files is None else files
        label = table.of(part.name, part.rows)
        taken = np.flatnonzero(label >= 0)
        return Situation(opened, part, label, taken, table.class_names, warnings=warnings)
    predictor = Predictor.open(run, device, trust=trust)
    learned = np.array([sample in predictor.learned for sample in part.ids], bool)
    known = _labels_of(predictor, opened, part, learned)
    label = known.of(part.name, part.rows)
    names = known.class_names
    aside = run.aside
    taken = learned | np.array([sample in aside for sample in part.ids], bool)
    if files is not None:
        names = (*names, *(name for name in files.class_names if name not in names))
        new = renumbered(files.of(part.name, part.rows), files.class_names, names)
        label = np.where(new >= 0, new, label)
    return Situation(opened, part, label, np.flatnonzero(taken | (label >= 0)), names, predictor, warnings)


def _labels_of(
    predictor: Predictor, cache: CacheReader, split: SplitReader, mine: NDArray[np.bool_]
) -> LabelTable:
    """Return the labels that a run learned from: as it says, or as its cache has them.

    `mine` (N,) is True for their rows.
    """
    names, learned = predictor.class_names, predictor.learned
    if all(name is not None for name in learned.values()):
        place = {name: index for index, name in enumerate(names)}
        label = np.array([place.get(learned.get(sample) or "", -1) for sample in split.ids])
        return LabelTable(names, {split.name: label})
    # A cache may have more labels than the run was given.
    table = cache.labels
    return LabelTable(table.class_names, {split.name: np.where(mine, table.of(split.name, split.rows), -1)})


def _cache_of(run: RunFolder, cache: Location | None) -> Path:
    path = cache.path if cache else cache_of(run)
    if path is None or (cache is None and not path.exists()):
        raise ConfigError(
            f"the cache of the run {run.path} is not where it was",
            got=f"nothing at {path}",
            hint=f"say where it is: {option('cache', 'CACHE.zarr')}",
        )
    return path


def _split_of(run: RunFolder | None) -> str:
    return "train" if run is None else str(run.config()["options"]["data"]["train"])
