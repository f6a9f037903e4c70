"""The contract of a learner: it learns the classes of labelled rows and predicts those of other rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, NoReturn, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from featcache.batch import Batch, Views
from featcache.loading.store import FeatureStore
from featcache.nn.projector import Projector
from featcache.objectives.base import ProbeData, Task
from featcache.training.data import Draw, Labelled
from featcache.training.outputs import Outputs
from featcache.training.recipe import Recipe
from featcache.training.task import FeatureOrigin, save_task


class SavedFiles(Protocol):
    """The files of a run from which a learner can be made again."""

    @property
    def task(self) -> Path:
        """The task file."""

    @property
    def checkpoint(self) -> Path:
        """The checkpoint file."""


class Journal:
    """Hear of a training while it goes on. This one does nothing with what it hears."""

    def log(self, step: int, terms: Mapping[str, float]) -> None:
        """Take the loss and its terms after a step."""

    def checkpoint(self, learner: Learner) -> None:
        """Save the learner, which can go on from here."""


class Learner(ABC):
    """A probe that is fitted at once, or a projector that is trained step by step.

    A learner is made from a draw of labels, and again from the files of its run. It trains while `steps_done`
    is below `steps`, by `advance`; `finish` ends that. Then it predicts.
    """

    steps: int
    """The length of the training; 0 for a learner that is fitted when it is made."""
    trains_steps: ClassVar[bool]
    """Whether the learner is trained in steps; else it is fitted when it is made."""
    default_folds: ClassVar[int]
    """Folds of cross-validation where the option `cv` is 0."""
    reads_tokens: ClassVar[bool]
    """Whether predictions need the tokens of a cache, or its pooled embeddings alone."""
    task: Task | ProbeData
    """The part of the data that the learner was made from."""
    origin: FeatureOrigin
    journal: Journal = Journal()

    @classmethod
    @abstractmethod
    def create(cls, recipe: Recipe, draw: Draw) -> Self:
        """Make the learner for a draw of labels."""

    @classmethod
    @abstractmethod
    def load(cls, recipe: Recipe, files: SavedFiles) -> Self:
        """Make the learner again from the files of a finished run; raises TrainError if they are damaged."""

    @abstractmethod
    def predict(self, store: FeatureStore, rows: NDArray[np.int64], view: int = 0) -> Outputs:
        """Predict sorted rows of a store under one view."""

    @property
    def steps_done(self) -> int:
        """Training steps done so far."""
        return 0

    @property
    def probed(self) -> Projector | None:
        """The projector whose representation the result is to compare by probes; None for most learners."""
        return None

    def views(self, available: Sequence[str]) -> Views:
        """Name the view families that a training reads, given those that the cache holds."""
        return Views(labelled=(), unlabelled=())

    def resume(self, checkpoint: Path) -> None:
        """Go on from a checkpoint; raises TrainError if it is damaged or of another configuration."""
        self._refuse()

    def save(self, checkpoint: Path) -> None:
        """Write a checkpoint to go on from."""
        self._refuse()

    def begin(self) -> None:
        """Prepare for the next steps."""
        self._refuse()

    def advance(self, batch: Batch) -> None:
        """Take one training step; raises TrainError where a number is not finite."""
        self._refuse()

    def finish(self, known: Labelled) -> None:
        """End the training, with a last look at the labelled rows."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise TypeError(f"{type(self).__name__} is not trained in steps")

    def save_task(self, path: Path) -> None:
        """Write the task file, from which `load` makes the learner again."""
        save_task(path, self.task, self.origin)
