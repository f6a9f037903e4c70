"""Cross-validation: predict every labelled row by a model that was trained without it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from featcache.training.data import Draw
from featcache.training.held_out import HeldOut
from featcache.training.learner import Learner
from featcache.training.selection import deal, folds

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Repeats = Sequence[Sequence[Ints]]
"""The folds of each repeat, as positions of labelled rows."""
FOLDS = 5
"""Folds of an estimate. Each is one more training, so a learner that is trained in steps has one repeat."""
CHEAP_FOLDS, CHEAP_REPEATS, FEW = 10, 3, 100
"""Folds and repeats for a learner that is fitted at once, below FEW labels. A fold then costs the model fewer
of its few labels, and the estimate depends less on the draw of the folds."""


def selection_folds(labels: Ints, wanted: int, seed: int) -> Repeats:
    """Draw the folds that compare settings: one repeat, and none if a class has one label."""
    parts = folds(labels, wanted, seed)
    return [parts] if parts else []


def estimate_folds(labels: Ints, wanted: int, seed: int, *, cheap: bool) -> Repeats:
    """Draw the folds of an estimate, in which a class may have one label, which is never held out.

    `wanted` is their number; 0: five, in one repeat. With `cheap`, for a learner that is fitted at once, it
    is ten in three repeats below 100 labels. Return none if no class has two labels.
    """
    thorough = cheap and len(labels) < FEW
    count = wanted or (CHEAP_FOLDS if thorough else FOLDS)
    drawn = [deal(labels, count, [seed, number]) for number in range(CHEAP_REPEATS if thorough else 1)]
    return [parts for parts in drawn if parts]


def folds_of(draw: Draw, learner: Learner, cv: int | Literal["off"], *, estimated: bool) -> Repeats:
    """Draw the folds of a training: none for `cv` "off", and those of an estimate if it is asked for."""
    if cv == "off":
        return []
    label = draw.known.label
    if estimated:
        return estimate_folds(label, cv, draw.seed, cheap=not learner.trains_steps)
    return selection_folds(label, cv or learner.default_folds, draw.seed)


def cross_validate(
    draw: Draw, repeats: Repeats, train_fold: Callable[[int, Draw], Learner]
) -> HeldOut | None:
    """Train once for each fold of each repeat, and predict the fold.

    `train_fold` gets the number of the fold, counted over all repeats, and the draw without its labels.
    Return None if there are no folds.
    """
    known = draw.known

    def predict(number: int, held: Ints) -> Floats:
        learner = train_fold(number, draw.without(held))
        return np.asarray(learner.predict(known.store, known.rows[held]).log_probs.double().numpy())

    return hold_out(known.rows, known.label, len(draw.class_names), repeats, predict)


def hold_out(
    rows: Ints, labels: Ints, classes: int, repeats: Repeats, predict: Callable[[int, Ints], Floats]
) -> HeldOut | None:
    """Collect the predictions of all folds of `rows` (n,) with `labels` (n,).

    `predict` gets the number of the fold and its k positions, and returns (k, C) log-probabilities. Return
    None if there are no folds.
    """
    if not repeats:
        return None
    counts = np.bincount(labels, minlength=classes)
    found = np.full((len(repeats), len(labels), classes), np.nan)
    kept = np.zeros((len(repeats), len(labels)))
    number = 0
    for repeat, parts in enumerate(repeats):
        for held in parts:
            own = labels[held]
            found[repeat, held] = predict(number, held)
            kept[repeat, held] = 1 - np.bincount(own, minlength=classes)[own] / counts[own]
            number += 1
    right = found.argmax(2) == labels
    correct = np.where(np.isnan(found[:, :, 0]), -1, right).astype(np.int8)
    return HeldOut(rows, labels, _mean(found), correct, kept.mean(0), len(repeats[0]))


def _mean(log_probs: Floats) -> Floats:
    """Return the (n, C) normalised mean of (R, n, C) log-probabilities; a single repeat stays as it is."""
    from scipy.special import log_softmax

    mean: Floats = log_probs.mean(0)
    return mean if len(log_probs) == 1 else np.asarray(log_softmax(mean, axis=1))
