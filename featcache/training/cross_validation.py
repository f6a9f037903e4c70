"""Predict every labelled row by a training that did not learn from it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from featcache.training.data import Draw
from featcache.training.learner import Learner
from featcache.training.selection import folds


def cross_validate(
    draw: Draw, wanted: int, train_fold: Callable[[int, Draw], Learner]
) -> NDArray[np.float64] | None:
    """Train once for each fold, and predict the fold: (n, C) log-probabilities of the labelled rows, in nats.

    `train_fold` gets the number of the fold and the draw without its labels. None where `wanted` is below 2,
    or a class has one labelled row only.
    """
    known = draw.known
    parts = folds(known.label, wanted, draw.seed)
    if not parts:
        return None
    found = np.empty((len(known.rows), len(draw.class_names)))
    for number, held in enumerate(parts):
        learner = train_fold(number, draw.without(held))
        found[held] = learner.predict(known.store, known.rows[held]).log_probs.double().numpy()
    return found
