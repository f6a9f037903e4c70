"""Open the data of a cache once, and draw the labelled rows of each training from it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from featcache.cache.reader import WRITTEN, CacheReader, SplitReader
from featcache.check.neighbours import Twins, rounding_of
from featcache.loading.replay import ReplayCache
from featcache.loading.splits import Classes, LabelSplit, choose_classes, draw_labels, long_tail
from featcache.loading.store import FeatureStore, reside
from featcache.location import Location
from featcache.objectives.base import ProbeData, Task
from featcache.training import head_init
from featcache.training.checks import refuse_leak, refuse_unlabelled_test, whole_split
from featcache.training.options import DataOptions
from featcache.training.outputs import pooled
from featcache.training.task import FeatureOrigin

Rows = NDArray[np.int64]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Labelled:
    """Sorted rows of a split and their labels."""

    store: FeatureStore
    rows: Rows
    label: NDArray[np.int64]

    @classmethod
    def of(cls, store: FeatureStore, split: SplitReader) -> Labelled:
        """Take every readable row that has a label."""
        rows = np.flatnonzero((split.status[:, 0] == WRITTEN) & (split.labels >= 0))
        return cls(store, rows, split.labels[rows])


@dataclass(frozen=True)
class TrainingData:
    """The training and the test split of one cache, opened and checked once for any number of trainings."""

    cache: CacheReader
    train: SplitReader
    test: SplitReader
    train_store: FeatureStore
    test_store: FeatureStore
    device: torch.device

    @classmethod
    def open(cls, cache: CacheReader, options: DataOptions, device: torch.device) -> TrainingData:
        """Open both splits, as the options `train`, `test` and `layer` say.

        Raises TrainError if the splits are the same or one does not exist. Raises CacheError if one is not
        complete, and ConfigError if the cache does not hold the layer.
        """
        refuse_leak(options.train, options.test)
        return cls(
            cache,
            whole_split(cache, "train", options.train),
            whole_split(cache, "test", options.test),
            FeatureStore.open(cache, options.train, options.layer),
            FeatureStore.open(cache, options.test, options.layer),
            device,
        )

    @cached_property
    def usable(self) -> NDArray[np.bool_]:
        """(N,) True for training rows that are readable in every view."""
        return np.asarray((self.train.status == WRITTEN).all(1))

    @cached_property
    def testable(self) -> NDArray[np.bool_]:
        """(N,) True for test rows that are readable in the evaluation view."""
        return np.asarray(self.test.status[:, 0] == WRITTEN)

    @cached_property
    def test_twins(self) -> Twins:
        """Finds embeddings that are the same as that of a labelled test row."""
        rows = np.flatnonzero(self.testable & (self.test.labels >= 0))
        return Twins(pooled(self.test_store, rows).numpy(), rounding_of(self.cache.spec.dtype))

    def draw(
        self,
        options: DataOptions,
        *,
        seed: int,
        labels_per_class: int | None = None,
        num_labels: int | None = None,
    ) -> Draw:
        """Draw the classes and the labelled rows of one training.

        The options `imbalance`, `unknown_classes` and `missing_classes` change the task. Raises TrainError
        if there are too few labels, or if no test row is labelled.
        """
        names, labels = self.cache.class_names, self.train.labels
        unknown, missing = options.unknown_classes, options.missing_classes
        classes = choose_classes(len(names), unknown=unknown, missing=missing, seed=seed)
        drawn = draw_labels(
            labels,
            names,
            seed=seed,
            labels_per_class=labels_per_class,
            num_labels=num_labels,
            usable=self.usable,
            without={*classes.unknown.tolist(), *classes.missing.tolist()},
        )
        draw = Draw(self, classes, long_tail(drawn, labels, ratio=options.imbalance, seed=seed), seed)
        refuse_unlabelled_test(len(draw.test.rows), self.test.name)
        return draw


def load_once(store: FeatureStore, options: DataOptions, device: torch.device, say: Say) -> None:
    """Load a store to the place that `options.residency` names, and report it, unless it is resident."""
    if store.columns["tokens"].resident is None:
        say(reside(store, options.residency, device))


@dataclass(frozen=True)
class Draw:
    """One draw of labels: the classes of a task, its labelled rows and its unlabelled rows.

    Labels are class numbers of the task, in which unknown classes have no number.
    """

    data: TrainingData
    classes: Classes
    split: LabelSplit
    seed: int

    def without(self, positions: NDArray[np.int64]) -> Draw:
        """Return the draw without the labels at some positions of `known`: a fold to hold out."""
        labelled = np.delete(self.split.labelled, positions)
        return replace(self, split=LabelSplit(labelled, self.split.unlabelled))

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the task's classes, by number."""
        return tuple(self.data.cache.class_names[c] for c in self.classes.known)

    @cached_property
    def train_labels(self) -> NDArray[np.int64]:
        """(N,) labels of all training rows; -1 for a row of no class of the task."""
        return self.classes.numbered(self.data.train.labels)

    @property
    def known(self) -> Labelled:
        """The labelled training rows."""
        rows = self.split.labelled
        return Labelled(self.data.train_store, rows, self.train_labels[rows])

    @cached_property
    def test(self) -> Labelled:
        """The readable test rows of the task's classes."""
        labels = self.classes.numbered(self.data.test.labels)
        rows = np.flatnonzero(self.data.testable & (labels >= 0))
        return Labelled(self.data.test_store, rows, labels[rows])

    @property
    def unknown_rows(self) -> Rows:
        """The readable test rows of unknown classes."""
        return np.flatnonzero(self.data.testable & np.isin(self.data.test.labels, self.classes.unknown))

    def record(self, options: DataOptions) -> dict[str, Any]:
        """Return the labelled samples by row and by id, so that the draw can be repeated anywhere.

        If the draw has unknown or missing classes or is imbalanced, also return these classes and the
        unlabelled rows.
        """
        rows, ids, names = self.split.labelled, self.data.train.ids, self.data.cache.class_names
        record: dict[str, Any] = {"rows": rows.tolist(), "ids": [ids[row] for row in rows]}
        if options.imbalance > 1 or options.unknown_classes or options.missing_classes:
            record["unknown"] = [names[c] for c in self.classes.unknown]
            record["missing"] = [names[c] for c in self.classes.missing]
            record["unlabelled_rows"] = self.split.unlabelled.tolist()
        return record

    def origin(self, layer: int | None) -> FeatureOrigin:
        """Describe the features of a layer; a cache to predict must have the same."""
        return FeatureOrigin(features=self.data.cache.features(layer), class_names=self.class_names)

    @cached_property
    def probe_data(self) -> ProbeData:
        """The samples that a probe is fitted on."""
        known = self.known
        return ProbeData(
            pooled(known.store, known.rows),
            torch.from_numpy(known.label),
            len(self.class_names),
            self._class_text(),
        )

    @cached_property
    def task(self) -> Task:
        """The part of the data that an objective is made from."""
        known, classes = self.known, len(self.class_names)
        center = head_init.center_of(pooled(self.data.train_store, self.split.unlabelled))
        directions = head_init.class_directions(
            pooled(known.store, known.rows),
            torch.from_numpy(known.label),
            center,
            classes,
            self._class_text(),
        )
        return Task(
            num_classes=classes,
            dim=len(center),
            pooled_dim=len(center),
            num_unlabelled=len(self.split.unlabelled),
            label_counts=torch.from_numpy(np.bincount(known.label, minlength=classes)),
            center=center,
            class_init=directions,
            seed=self.seed,
        )

    def _class_text(self) -> Tensor | None:
        """Return the (C, P) unit-length embeddings of the task's class names, if the cache has them."""
        text = self.data.cache.class_text
        if text is None:
            return None
        return F.normalize(torch.from_numpy(text[self.classes.known]).float(), dim=1)


class DataPool:
    """Keep the last training data and the last replay cache open for the next training.

    Only one of each is kept, because each may hold a whole split in memory.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._data: tuple[Any, TrainingData] | None = None
        self._replay: tuple[Any, ReplayCache] | None = None

    def data(self, cache: str | os.PathLike[str] | CacheReader, options: DataOptions) -> TrainingData:
        """Return the data of a cache; open it unless the last training used the same rows."""
        key = (
            cache if isinstance(cache, CacheReader) else Location.of(cache),
            options.train,
            options.test,
            options.layer,
            options.residency,
        )
        if self._data is None or self._data[0] != key:
            self._data = None  # freed before the next one is loaded
            opened = cache if isinstance(cache, CacheReader) else CacheReader.open(Location.of(cache).path)
            self._data = key, TrainingData.open(opened, options, self.device)
        return self._data[1]

    def replay(self, data: TrainingData, options: DataOptions) -> ReplayCache | None:
        """Return the replay cache that `options` name, or None if they name none."""
        if options.replay is None:
            return None
        names, like = (options.replay_split, options.replay_test), data.cache.features(options.layer)
        key = (options.replay, names, like, data.test.spec, options.residency)
        if self._replay is None or self._replay[0] != key:
            self._replay = None
            opened = ReplayCache.open(options.replay, *names, like=like, held_out=data.test.spec)
            self._replay = key, opened
        return self._replay[1]
