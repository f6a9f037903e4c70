"""A probe as a learner: fitted on pooled embeddings at once, without a training step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from featcache.loading.store import FeatureStore
from featcache.objectives.base import Probe, ProbeData
from featcache.training.data import Draw
from featcache.training.learner import Learner, SavedFiles
from featcache.training.options import TrainOptions
from featcache.training.outputs import Outputs, pooled
from featcache.training.task import FeatureOrigin, load_task


class FittedProbe(Learner):
    """A probe of the frozen model's own embeddings."""

    steps = 0
    trains_steps = False
    default_folds = 5  # a probe is fitted again in no time
    reads_tokens = False

    def __init__(self, fitted: Callable[[Tensor], Tensor], task: ProbeData, origin: FeatureOrigin) -> None:
        self._log_probs, self.task, self.origin = fitted, task, origin

    @classmethod
    def create(
        cls, kind: type[Probe[Any]], options: TrainOptions, draw: Draw, *, seed: int, device: torch.device
    ) -> Self:
        """Fit the probe on the labelled rows."""
        return cls._fit(kind, options, draw.probe_data, draw.origin(options.data.layer), seed)

    @classmethod
    def load(
        cls,
        kind: type[Probe[Any]],
        options: TrainOptions,
        files: SavedFiles,
        *,
        seed: int,
        device: torch.device,
    ) -> Self:
        """Fit the probe again on the samples in the task file."""
        return cls._fit(kind, options, *load_task(files.task, ProbeData), seed)

    @classmethod
    def _fit(
        cls, kind: type[Probe[Any]], options: TrainOptions, task: ProbeData, origin: FeatureOrigin, seed: int
    ) -> Self:
        return cls(kind(kind.Options.parse(options.objective)).fit(task, seed), task, origin)

    def predict(self, store: FeatureStore, rows: NDArray[np.int64], view: int = 0) -> Outputs:
        """Predict from the pooled embeddings of the rows."""
        z = pooled(store, rows, view)
        return Outputs(z, self._log_probs(z))
