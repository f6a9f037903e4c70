"""The contract of a learner, which learns from labelled rows and predicts the classes of others."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, NoReturn, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from featcache.batch import Batch, Features, Views
from featcache.loading.store import FeatureStore
from featcache.nn.projector import Projector
from featcache.objectives.base import ProbeData, Task
from featcache.runs.saved import Digest
from featcache.training.data import Draw, Labelled
from featcache.training.outputs import Outputs
from featcache.training.recipe import Recipe
from featcache.training.task import FeatureOrigin, save_task


class SavedFiles(Protocol):
    """The files of a run that a learner is loaded from."""

    @property
    def task(self) -> Path:
        """The task file."""

    @property
    def checkpoint(self) -> Path:
        """The checkpoint file."""


class Journal:
    """Receive metrics and checkpoints during a training; this class ignores them."""

    def log(self, step: int, terms: Mapping[str, float]) -> None:
        """Record the loss and its terms after a step."""

    def checkpoint(self, learner: Learner) -> None:
        """Save the learner, so that the training can continue from this step."""


class Learner(ABC):
    """A probe that is fitted at once, or a projector that is trained step by step.

    It is created from a draw of labels, or loaded from the files of its run. While `steps_done` is below
    `steps`, call `advance`; then call `finish`. After that, the learner predicts.
    """

    steps: int
    """The number of training steps; 0 for a learner that is fitted when it is created."""
    trains_steps: ClassVar[bool]
    """True if the learner is trained in steps, False if it is fitted when it is created."""
    default_folds: ClassVar[int]
    """Folds of cross-validation if the option `cv` is 0."""
    reads_tokens: ClassVar[bool]
    """True if predictions need tokens, False if they need only pooled embeddings."""
    task: Task | ProbeData
    """The part of the data that the learner is created from."""
    origin: FeatureOrigin
    device: torch.device = torch.device("cpu")
    """The device on which it predicts."""
    journal: Journal = Journal()

    @classmethod
    @abstractmethod
    def create(cls, recipe: Recipe, draw: Draw) -> Self:
        """Create the learner for a draw of labels."""

    @classmethod
    @abstractmethod
    def load(cls, recipe: Recipe, files: SavedFiles) -> Self:
        """Load the learner of a finished run; raises TrainError if its files are damaged."""

    @abstractmethod
    def predict(self, store: FeatureStore, rows: NDArray[np.int64], view: int = 0) -> Outputs:
        """Predict sorted rows of a store under one view."""

    @abstractmethod
    def apply(self, features: Features) -> Outputs:
        """Predict features in memory, on the device of the learner."""

    def attention(self, store: FeatureStore, rows: NDArray[np.int64]) -> Tensor | None:
        """Return the weights (N, T) of the tokens of sorted rows; None if the learner has none."""
        return None

    @property
    def steps_done(self) -> int:
        """The number of training steps done."""
        return 0

    @property
    def probed(self) -> Projector | None:
        """The projector to report probes of; None for most learners."""
        return None

    def views(self, available: Sequence[str]) -> Views:
        """Return the view families that a training reads, chosen from the `available` ones."""
        return Views(labelled=(), unlabelled=())

    def resume(self, checkpoint: Path) -> None:
        """Restore a checkpoint; raises TrainError if it is damaged or of another configuration."""
        self._refuse()

    def save(self, checkpoint: Path, metrics: Digest | None = None) -> None:
        """Write a checkpoint; `metrics` is the digest of the metrics until this step."""
        self._refuse()

    def begin(self) -> None:
        """Prepare for the next steps."""
        self._refuse()

    def advance(self, batch: Batch) -> None:
        """Take one training step; raises TrainError if the loss or its gradient is not finite."""
        self._refuse()

    def finish(self, known: Labelled) -> None:
        """End the training; `known` are the labelled rows."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise TypeError(f"{type(self).__name__} is not trained in steps")

    def save_task(self, path: Path) -> None:
        """Write the task file, from which `load` makes the learner again."""
        save_task(path, self.task, self.origin)
