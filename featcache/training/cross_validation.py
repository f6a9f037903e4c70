"""Cross-validation: predict every labelled row by a model that was trained without it."""

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
    """Train once for each fold, predict the fold, and return log-probabilities of all labelled rows.

    They are (n, C) in nats. `train_fold` gets the number of the fold and the draw without its labels.
    Return None if `wanted` is below 2, or if a class has only one labelled row.
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
