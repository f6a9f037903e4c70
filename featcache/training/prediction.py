"""Predict the rows of a cache with the learner of a finished run."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from featcache.cache.identity import require_same
from featcache.cache.reader import CacheReader
from featcache.loading.store import FeatureStore
from featcache.training.fitting import how_to_make
from featcache.training.learner import Learner
from featcache.training.outputs import BATCH, Outputs

ROWS = 32 * BATCH
"""Rows to predict at a time, which limits the memory for the probabilities of all classes."""


def require_fitting(learner: Learner, cache: CacheReader) -> None:
    """Raise CacheMismatch with the differing field if the cache does not fit the learner."""
    wanted = learner.origin.features
    held = cache.features(wanted.layer)
    if not learner.reads_tokens:  # only the model and its pooled embedding must be the same
        held = wanted.model_copy(update={"encoder": held.encoder, "pooled": held.pooled})
    require_same(
        cache.path,
        held,
        wanted,
        by="in the cache of the run",
        hint=how_to_make(wanted),
    )


def open_store(learner: Learner, cache: CacheReader, split: str) -> FeatureStore:
    """Open a split of a cache at the layer that the learner reads."""
    return FeatureStore.open(cache, split, cache.features(learner.origin.features.layer).layer)


def predict_rows(
    learner: Learner, store: FeatureStore, rows: NDArray[np.int64], view: int = 0
) -> Iterator[tuple[NDArray[np.int64], Outputs]]:
    """Predict sorted rows of one view, ROWS at a time; yield row numbers and outputs."""
    for start in range(0, len(rows), ROWS):
        part = rows[start : start + ROWS]
        yield part, learner.predict(store, part, view)
