"""The request of one training: everything that a user asks for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.cache.labels import LabelTable
from featcache.cache.reader import CacheReader
from featcache.config import whole_number
from featcache.training.checks import refuse_seed, refuse_share


@dataclass(frozen=True)
class TrainRequest:
    """One training: the same request on the same machine gives the same result."""

    cache: str | os.PathLike[str] | CacheReader
    objective: str
    seed: int = 0
    """Seed of the draw of labels and of the training."""
    labels_per_class: int | None = None
    num_labels: int | None = None
    options: Mapping[str, Any] | None = None
    """Nested overrides of TrainOptions, for example {"optim": {"steps": 500}}."""
    order_seed: int | None = None
    """Seed of the order of samples; None: the same as `seed`."""
    labels: LabelTable | None = None
    """Labels to learn from; None: those of the cache."""
    class_text: NDArray[np.float32] | None = None
    """(C, P) embeddings of the class names; None: those of the cache, if it has them."""
    holdout: float = 0.0
    """Share of the labelled samples to set aside, which test the model in the end."""

    @property
    def seed_of_order(self) -> int:
        """The seed of the order of samples."""
        return self.seed if self.order_seed is None else self.order_seed

    @property
    def takes_all_labels(self) -> bool:
        """True if the training learns from all labels, without a budget."""
        return self.labels_per_class is None and self.num_labels is None


def checked(request: TrainRequest) -> TrainRequest:
    """Turn the numbers of a request into plain integers; raises ConfigError for anything else."""
    checked: dict[str, Any] = {
        name: whole_number(name, value)
        for name in ("seed", "labels_per_class", "num_labels", "order_seed")
        if (value := getattr(request, name)) is not None
    }
    for name in ("seed", "order_seed"):
        refuse_seed(name, checked.get(name, 0))
    refuse_share("holdout", request.holdout)
    return replace(request, **checked)
