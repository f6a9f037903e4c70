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

from featcache.cache.labels import LabelTable
from featcache.cache.reader import WRITTEN, CacheReader, SplitReader
from featcache.checking.neighbours import Twins, rounding_of
from featcache.errors import TrainError, option
from featcache.loading.replay import ReplayCache
from featcache.loading.splits import Classes, LabelSplit, choose_classes, draw_labels, long_tail, set_aside
from featcache.loading.store import FeatureStore, reside
from featcache.location import Location
from featcache.objectives.base import ProbeData, Task
from featcache.sources.base import UNLABELLED
from featcache.training import head_init
from featcache.training.checks import refuse_leak, test_split, whole_split
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
    labels: LabelTable
    """The labels of both splits."""
    train: SplitReader
    test: SplitReader | None
    """The split to test on, if the cache has it."""
    train_store: FeatureStore
    test_store: FeatureStore | None
    device: torch.device
    class_text: NDArray[np.float32] | None = None
    """(C, P) embeddings of the class names, if they are at hand."""

    @classmethod
    def open(
        cls,
        cache: CacheReader,
        options: DataOptions,
        device: torch.device,
        labels: LabelTable | None = None,
    ) -> TrainingData:
        """Open both splits, as the options `train`, `test` and `layer` say.

        `labels` are used instead of those of the cache. Raises TrainError if the splits are the same or one
        does not exist; only a split `test` may be missing. Raises CacheError if one is not complete, and
        ConfigError if the cache does not hold the layer.
        """
        refuse_leak(options.train, options.test)
        train, test = whole_split(cache, "train", options.train), test_split(cache, options.test)
        checked = options.verify == "background"
        return cls(
            cache,
            cache.labels if labels is None else labels,
            train,
            test,
            FeatureStore.open(cache, options.train, options.layer, checked=checked),
            None if test is None else FeatureStore.open(cache, test.name, options.layer, checked=checked),
            device,
        )

    @property
    def class_names(self) -> tuple[str, ...]:
        """The class names, by label."""
        return self.labels.class_names

    @cached_property
    def train_labels(self) -> NDArray[np.int64]:
        """(N,) labels of the training split: class index, or -1."""
        return self.labels.of(self.train.name, self.train.rows)

    @cached_property
    def test_labels(self) -> NDArray[np.int64]:
        """(M,) labels of the test split: class index, or -1; without such a split, M is 0."""
        return np.empty(0, np.int64) if self.test is None else self.labels.of(self.test.name, self.test.rows)

    def labels_digest(self) -> str | None:
        """Return the digest of the labels of both splits; None if the digests of the splits cover them."""
        splits = [split.name for split in (self.train, self.test) if split is not None]
        own = self.train.spec.source is None or self.labels.digest() != self.cache.labels_of_format_1.digest()
        return self.labels.digest(splits) if own else None

    @cached_property
    def usable(self) -> NDArray[np.bool_]:
        """(N,) True for training rows that are readable in every view."""
        return np.asarray((self.train.status == WRITTEN).all(1))

    @cached_property
    def testable(self) -> NDArray[np.bool_]:
        """(M,) True for test rows that are readable in the evaluation view."""
        return np.empty(0, bool) if self.test is None else np.asarray(self.test.status[:, 0] == WRITTEN)

    @cached_property
    def test_twins(self) -> Twins:
        """Finds embeddings that are the same as that of a labelled test row."""
        rows, width = np.flatnonzero(self.testable & (self.test_labels >= 0)), self.cache.shapes.pooled
        none = np.empty((0, width), np.float32)
        values = none if self.test_store is None else pooled(self.test_store, rows).numpy()
        return Twins(values, rounding_of(self.cache.spec.dtype))

    def draw(
        self,
        options: DataOptions,
        *,
        seed: int,
        labels_per_class: int | None = None,
        num_labels: int | None = None,
        holdout: float = 0.0,
    ) -> Draw:
        """Draw the classes and the labelled rows of one training: all labelled rows without a budget.

        The options `imbalance`, `unknown_classes` and `missing_classes` change the task. `holdout` is the
        share of the labelled samples to set aside. Raises TrainError if there are too few labels for either.
        """
        names, labels = self.class_names, self.train_labels
        unknown, missing = options.unknown_classes, options.missing_classes
        classes = choose_classes(len(names), unknown=unknown, missing=missing, seed=seed)
        known = np.where(self.usable, classes.numbered(labels), UNLABELLED)
        aside = set_aside(self.train.ids, known, holdout) if holdout else np.zeros(len(labels), bool)
        if holdout and not aside.any():
            raise TrainError(
                "no labelled sample is set aside",
                got=f"{option('holdout', holdout)} of {(known >= 0).sum()} labels",
                hint="ask for a larger share, or leave it out: cross-validation sets none aside",
            )
        drawn = draw_labels(
            labels,
            names,
            seed=seed,
            labels_per_class=labels_per_class,
            num_labels=num_labels,
            usable=self.usable & ~aside,
            without={*classes.unknown.tolist(), *classes.missing.tolist()},
        )
        split = long_tail(drawn, labels, ratio=options.imbalance, seed=seed)
        return Draw(self, classes, split, seed, np.flatnonzero(aside))


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
    aside: Rows
    """Labelled training rows that are set aside; the training does not see them."""

    def without(self, positions: NDArray[np.int64]) -> Draw:
        """Return the draw without the labels at some positions of `known`: a fold to hold out."""
        labelled = np.delete(self.split.labelled, positions)
        return replace(self, split=LabelSplit(labelled, self.split.unlabelled))

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the task's classes, by number."""
        return tuple(self.data.class_names[c] for c in self.classes.known)

    @cached_property
    def train_labels(self) -> NDArray[np.int64]:
        """(N,) labels of all training rows; -1 for a row of no class of the task."""
        return self.classes.numbered(self.data.train_labels)

    @property
    def known(self) -> Labelled:
        """The labelled training rows."""
        rows = self.split.labelled
        return Labelled(self.data.train_store, rows, self.train_labels[rows])

    @cached_property
    def test(self) -> Labelled | None:
        """The readable test rows of the task's classes; None if there are none."""
        labels = self.classes.numbered(self.data.test_labels)
        rows = np.flatnonzero(self.data.testable & (labels >= 0))
        return (
            Labelled(self.data.test_store, rows, labels[rows]) if self.data.test_store and len(rows) else None
        )

    @property
    def holdout(self) -> Labelled | None:
        """The labelled training rows that are set aside; None if there are none."""
        labels = self.train_labels[self.aside]
        return Labelled(self.data.train_store, self.aside, labels) if len(self.aside) else None

    @property
    def unknown_rows(self) -> Rows:
        """The readable test rows of unknown classes."""
        return np.flatnonzero(self.data.testable & np.isin(self.data.test_labels, self.classes.unknown))

    def record(self, options: DataOptions) -> dict[str, Any]:
        """Return the labelled samples by row, id and class, so that the draw can be repeated anywhere.

        `chosen` counts those that `suggest` chose; `aside` has the ids of those that are set aside. A
        draw that is imbalanced, or has unknown or missing classes, also has these and the unlabelled rows.
        """
        rows, ids, names = self.split.labelled, self.data.train.ids, self.data.class_names
        record: dict[str, Any] = {"rows": rows.tolist(), "ids": [ids[row] for row in rows]}
        record["classes"] = [self.class_names[c] for c in self.train_labels[rows]]
        if self.data.labels.chosen:
            record["chosen"] = self.data.labels.chosen
        if len(self.aside):
            record["aside"] = [ids[row] for row in self.aside]
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
        """Return the (C, P) unit-length embeddings of the task's class names, if they are at hand."""
        text = self.data.class_text
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

    def data(
        self,
        cache: str | os.PathLike[str] | CacheReader,
        options: DataOptions,
        labels: LabelTable | None = None,
        class_text: NDArray[np.float32] | None = None,
    ) -> TrainingData:
        """Return the data of a cache; open it unless the last training used the same rows and labels.

        `class_text` are (C, P) embeddings of the class names, used instead of those of the cache.
        """
        key = (
            None if labels is None else labels.digest(),
            None if class_text is None else class_text.tobytes(),
            cache if isinstance(cache, CacheReader) else Location.of(cache),
            options.train,
            options.test,
            options.layer,
            options.residency,
        )
        if self._data is None or self._data[0] != key:
            self._data = None  # freed before the next one is loaded
            opened = cache if isinstance(cache, CacheReader) else CacheReader.open(Location.of(cache).path)
            data = TrainingData.open(opened, options, self.device, labels)
            text = opened.text_of(data.class_names) if class_text is None else class_text
            self._data = key, replace(data, class_text=text)
        return self._data[1]

    def replay(self, data: TrainingData, options: DataOptions) -> ReplayCache | None:
        """Return the replay cache that `options` name, or None if they name none."""
        if options.replay is None:
            return None
        names, like = (options.replay_split, options.replay_test), data.cache.features(options.layer)
        held_out = None if data.test is None else data.test.spec
        key = (options.replay, names, like, held_out, options.residency)
        if self._replay is None or self._replay[0] != key:
            self._replay = None
            opened = ReplayCache.open(options.replay, *names, like=like, held_out=held_out)
            self._replay = key, opened
        return self._replay[1]
