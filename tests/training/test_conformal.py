"""Sets of classes: the quantile that the promise rests on, and when there is no promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featcache.errors import TrainError
from featcache.training.conformal import calibrate, classes_within, fewest, threshold
from featcache.training.held_out import HeldOut

LEVELS = st.integers(1, 99).map(lambda percent: percent / 100)


def held_out(log_probs, label, known=None):
    n = len(label)
    correct = np.ones((1, n), np.int8) if known is None else np.where(known, 1, -1).astype(np.int8)[None]
    return HeldOut(np.arange(n), np.asarray(label), log_probs, correct, np.ones(n), 5)


@settings(deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=40), LEVELS)
def test_one_of_exchangeable_scores_is_at_most_the_threshold_of_the_others(scores, coverage):
    """The theorem itself, exactly: averaged over which of n + 1 scores is the new one, ties included."""
    scores = np.array([*scores, 5], float)
    others = [np.delete(scores, i) for i in range(len(scores))]
    held = [scores[i] <= threshold(other, coverage) for i, other in enumerate(others)]
    assert np.mean(held) >= coverage - 1e-9


@given(LEVELS)
def test_the_fewest_labels_are_those_with_a_finite_threshold(coverage):
    n = fewest(coverage)
    assert math.isfinite(threshold(np.arange(float(n)), coverage))
    assert threshold(np.arange(float(n - 1)), coverage) == math.inf


def test_the_sets_are_those_of_the_scores():
    """Nine held-out labels at 0.9: the threshold is the largest score, that of probability 0.2."""
    probability = np.array([[0.9, 0.1]] * 8 + [[0.8, 0.2]])
    label = [0] * 8 + [1]
    limit = calibrate(held_out(np.log(probability), label), ("a", "b"), 0.9, "run")
    assert limit == pytest.approx(-np.log(0.2))
    new = np.log(np.array([[0.75, 0.25], [0.85, 0.15], [0.5, 0.5]]))
    assert classes_within(new, limit).tolist() == [[True, True], [True, False], [True, True]]


def test_a_promise_that_labels_do_not_carry_is_refused():
    rng = np.random.default_rng(0)
    log_probs = np.log(rng.dirichlet(np.ones(2), 30))
    label = np.arange(30) % 2
    with pytest.raises(TrainError, match=r"cannot promise[\s\S]*cross-validation"):
        calibrate(None, ("a", "b"), 0.9, "run")
    with pytest.raises(TrainError, match=r"8 held-out labels[\s\S]*at least 9"):
        calibrate(held_out(log_probs[:8], label[:8]), ("a", "b"), 0.9, "run")
    with pytest.raises(TrainError, match=r"got: +c\n[\s\S]*two or more"):
        calibrate(held_out(np.log(rng.dirichlet(np.ones(3), 30)), label), ("a", "b", "c"), 0.9, "run")
    known = np.arange(30) > 0  # NaN, as the only label of its class
    log_probs[0] = np.nan
    assert math.isfinite(calibrate(held_out(log_probs, label, known), ("a", "b"), 0.9, "run"))
