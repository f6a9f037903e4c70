"""Temperature scaling against a grid search and known properties; reliability against a loop."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import log_softmax

from featcache.training.calibration import COLDEST, HOTTEST, calibration, fit_temperature, reliability, scaled
from featcache.training.metrics import expected_calibration_error


@st.composite
def predictions(draw):
    n = draw(st.integers(1, 30))
    logits = draw(arrays(np.float64, (n, 3), elements=st.floats(-9, 9)))
    return log_softmax(logits, axis=1), draw(arrays(np.int64, n, elements=st.integers(0, 2)))


def nll(log_probs, labels, temperature):
    """The definition, sample by sample."""
    total = 0.0
    for row, label in zip(log_probs, labels, strict=True):
        weights = np.exp(row / temperature - (row / temperature).max())
        total -= np.log(weights[label] / weights.sum())
    return total / len(labels)


def nll_with_two_more(log_probs, labels, temperature):
    """n times the loss, with one more sample that is right and one that is wrong, of mean confidence."""
    total = len(labels) * nll(log_probs, labels, temperature)
    for row in log_probs:
        probability = np.exp(row / temperature - (row / temperature).max())
        probability = np.sort(probability / probability.sum())
        total -= (np.log(probability[-1]) + np.log(probability[:-1].sum())) / len(labels)
    return total


@settings(max_examples=40, deadline=None)
@given(predictions(), st.sampled_from([COLDEST, 1.0]))
def test_no_temperature_of_a_grid_is_better(case, coldest):
    found = fit_temperature(*case, coldest)
    assert coldest * (1 - 1e-9) <= found <= HOTTEST * (1 + 1e-9)
    grid = np.geomspace(coldest, HOTTEST, 60)
    assert nll_with_two_more(*case, found) <= min(nll_with_two_more(*case, t) for t in grid) + 1e-4


@pytest.mark.parametrize("truth", [0.2, 1.0, 3.0])
def test_a_known_temperature_is_found(truth):
    rng = np.random.default_rng(0)
    logits = 2 * rng.standard_normal((20_000, 4))
    labels = (logits + rng.gumbel(size=logits.shape)).argmax(1)
    assert fit_temperature(log_softmax(truth * logits, axis=1), labels) == pytest.approx(truth, rel=0.05)


@pytest.mark.parametrize("n", [1, 2, 20, 500])
def test_samples_that_are_all_right_ask_for_the_confidence_of_laplace(n):
    """The rule of succession: after n successes of n, the next succeeds with (n + 1) / (n + 2)."""
    log_probs, labels = np.log(np.array([[0.55, 0.25, 0.2]] * n)), np.zeros(n, np.int64)
    confidence = np.exp(scaled(log_probs, fit_temperature(log_probs, labels))).max(1)
    assert confidence == pytest.approx((n + 1) / (n + 2), abs=1e-4)


def test_few_samples_that_are_all_right_do_no_harm_to_others():
    """Twenty held-out samples, all right, of a classifier that is right nine times in ten and knows it."""
    calibrated = np.log(np.array([[0.9, 0.1]] * 1000))
    labels = np.repeat([0, 1], [900, 100])
    temperature = fit_temperature(calibrated[:20], labels[:20])
    assert nll(calibrated, labels, temperature) < nll(calibrated, labels, 1.0) + 0.06  # at 1/20: + 4


def test_the_bounds_hold_where_the_fit_would_explode():
    sure = np.log(np.array([[0.9, 0.1], [0.2, 0.8]] * 50))
    right = np.array([0, 1] * 50)
    assert fit_temperature(sure, right, coldest=1.0) == pytest.approx(1.0)
    assert fit_temperature(sure, 1 - right) == pytest.approx(HOTTEST)
    barely = np.log(np.array([[0.501, 0.499]] * 100))
    assert fit_temperature(barely, np.zeros(100, np.int64)) == pytest.approx(COLDEST)


def test_one_class_needs_no_temperature():
    assert fit_temperature(np.zeros((3, 1)), np.zeros(3, np.int64)) == 1.0


@given(predictions(), st.floats(0.05, 20))
def test_scaling_keeps_every_prediction_a_distribution(case, temperature):
    log_probs, _ = case
    after = scaled(log_probs, temperature)
    assert np.exp(after).sum(1) == pytest.approx(1)
    assert (np.take_along_axis(after, log_probs.argmax(1)[:, None], 1)[:, 0] == after.max(1)).all()


@given(predictions(), st.integers(1, 20))
def test_reliability_by_a_loop(case, bins):
    log_probs, labels = case
    members = [[] for _ in range(bins)]
    for row, label in zip(log_probs, labels, strict=True):
        confidence = float(np.exp(row.max()))
        index = next((i for i in range(bins) if confidence * bins <= i + 1), bins - 1)
        members[index].append((confidence, float(row.argmax() == label)))
    got = reliability(log_probs, labels, bins)
    assert got["count"] == [len(own) for own in members]
    for column, name in enumerate(("confidence", "accuracy")):
        wanted = [np.mean([pair[column] for pair in own]) if own else None for own in members]
        assert got[name] == [None if value is None else pytest.approx(value) for value in wanted]


@given(predictions(), st.floats(0.05, 20))
def test_the_table_holds_the_error_and_the_likelihood(case, temperature):
    log_probs, labels = case
    got = calibration(log_probs, labels, temperature)
    assert got["nll_scaled"] == pytest.approx(nll(log_probs, labels, temperature), rel=1e-6, abs=1e-9)
    for when, error in (
        ("before", expected_calibration_error(log_probs, labels)),
        ("after", got["ece_scaled"]),
    ):
        bins = got["reliability"][when]
        gaps = [n * abs(c - a) for n, c, a in zip(*bins.values(), strict=True) if n]
        assert sum(gaps) / len(labels) == pytest.approx(error, abs=1e-9)
