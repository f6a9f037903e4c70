"""A learner that is a probe: fitted on pooled embeddings, without training steps."""

from __future__ import annotations

from typing import Self

import numpy as np
from numpy.typing import NDArray

from featcache.batch import Features
from featcache.loading.store import FeatureStore
from featcache.objectives.base import ProbeData
from featcache.training.data import Draw
from featcache.training.learner import Learner, SavedFiles
from featcache.training.outputs import Outputs, pooled
from featcache.training.recipe import Recipe
from featcache.training.task import FeatureOrigin, load_task


class FittedProbe(Learner):
    """A probe of the frozen model's own embeddings."""

    steps = 0
    trains_steps = False
    default_folds = 5  # a probe is fitted again in no time
    reads_tokens = False

    def __init__(self, recipe: Recipe, task: ProbeData, origin: FeatureOrigin) -> None:
        self.task, self.origin = task, origin
        self._log_probs = recipe.kind(recipe.own_options).fit(task, recipe.seed)

    @classmethod
    def create(cls, recipe: Recipe, draw: Draw) -> Self:
        """Fit the probe on the labelled rows."""
        return cls(recipe, draw.probe_data, draw.origin(recipe.options.data.layer))

    @classmethod
    def load(cls, recipe: Recipe, files: SavedFiles) -> Self:
        """Fit the probe again on the samples in the task file."""
        return cls(recipe, *load_task(files.task, ProbeData))

    def predict(self, store: FeatureStore, rows: NDArray[np.int64], view: int = 0) -> Outputs:
        """Predict from the pooled embeddings of the rows."""
        z = pooled(store, rows, view)
        return Outputs(z, self._log_probs(z))

    def apply(self, features: Features) -> Outputs:
        """Predict from pooled embeddings in memory."""
        z = features.pooled.cpu().float()
        return Outputs(z, self._log_probs(z))
