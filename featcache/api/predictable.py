"""A split that can be predicted: of a cache, or of raw samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from featcache.api.cache import Split
from featcache.api.predictions import Predictions
from featcache.api.run import parts
from featcache.cache.reader import WRITTEN
from featcache.training.prediction import Predictor


class Predicted(NamedTuple):
    """Predictions of some samples."""

    predictions: Predictions
    failed: dict[str, str]
    """Why raw samples could not be read, by id; these have no prediction."""


@dataclass(frozen=True)
class Predictable:
    """A split that can be predicted some samples at a time."""

    name: str
    rows: int
    readable: Sequence[str]
    """The ids of the samples that may get a prediction."""
    parts: Callable[[float], Iterator[Predicted]]
    """Predict all samples in order; a confidence below the argument is unsure."""


def of_cache(predictor: Predictor, split: Split) -> Predictable:
    """Return a split of a cache; raises CacheError unless it is complete."""
    split.check()
    there = np.flatnonzero(split.status[:, 0] == WRITTEN)

    def predicted(unsure_below: float) -> Iterator[Predicted]:
        for part in parts(predictor, split, unsure_below=unsure_below):
            yield Predicted(part, {})

    return Predictable(split.name, split.rows, [split.ids[row] for row in there], predicted)
