"""Figures against scikit-learn, and calibration against a sum done by hand."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn import metrics as sk

from featcache.training.metrics import evaluate, expected_calibration_error

NAMES = ("cat", "dog", "owl", "emu")


def log_softmax(logits):
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


@st.composite
def predictions(draw):
    """Log-probabilities (N, 4) and labels that leave some classes out."""
    n = draw(st.integers(1, 40))
    logits = draw(arrays(np.float64, (n, 4), elements=st.floats(-8, 8)))
    labels = draw(arrays(np.int64, n, elements=st.integers(0, draw(st.integers(0, 3)))))
    return log_softmax(logits), labels


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true", "ignore:A single label was found")
@given(predictions())
def test_against_scikit_learn(case):
    log_probs, labels = case
    got, predicted, present = evaluate(log_probs, labels, NAMES), log_probs.argmax(1), np.unique(labels)
    assert got["accuracy"] == pytest.approx(sk.accuracy_score(labels, predicted))
    assert got["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(labels, predicted))
    f1 = sk.f1_score(labels, predicted, average=None, labels=range(4), zero_division=0.0)
    assert got["macro_f1"] == pytest.approx(f1[present].mean())
    assert got["nll"] == pytest.approx(sk.log_loss(labels, np.exp(log_probs), labels=range(4)), rel=1e-6)
    recall = sk.recall_score(labels, predicted, average=None, labels=range(4), zero_division=0.0)
    assert got["per_class"] == pytest.approx({NAMES[c]: recall[c] for c in present})
    assert got["confusion"] == [
        [int(((labels == true) & (predicted == guess)).sum()) for guess in range(4)] for true in range(4)
    ]
    assert got["samples"] == len(labels)


def test_calibration_by_hand():
    """Fifteen bins of confidence, each (low, high]: 0.6 is in the ninth, 0.61 and 0.65 in the tenth."""
    confidence = np.array([0.6, 0.61, 0.65, 0.95, 1.0])
    correct = np.array([True, False, True, True, False])
    log_probs = np.log(np.clip(np.stack([confidence, 1 - confidence], 1), 1e-300, 1))
    by_hand = (abs(0.6 - 1) + abs(0.61 + 0.65 - 1) + abs(0.95 + 1.0 - 1)) / 5
    assert expected_calibration_error(log_probs, np.where(correct, 0, 1)) == pytest.approx(by_hand)


@given(predictions(), st.integers(1, 20))
def test_calibration_against_its_definition(case, bins):
    """Sum over bins of |B| / N * |acc(B) - conf(B)| (arXiv 1706.04599, eq. 3)."""
    log_probs, labels = case
    confidence, correct = np.exp(log_probs.max(1)), log_probs.argmax(1) == labels
    edges, error = np.arange(bins + 1) / bins, 0.0
    for low, high in pairwise(edges):
        inside = (confidence * bins > low * bins) & (confidence * bins <= high * bins)
        if inside.any():
            error += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    outside = confidence > 1  # by a rounding error: in the last bin
    if not outside.any():
        assert expected_calibration_error(log_probs, labels, bins) == pytest.approx(error, abs=1e-9)


def test_a_perfect_and_a_hopeless_prediction():
    sure = np.log(np.clip(np.eye(4)[[0, 1, 2, 3]], 1e-9, 1))
    good, bad = evaluate(sure, np.arange(4), NAMES), evaluate(sure, np.array([1, 2, 3, 0]), NAMES)
    assert (good["accuracy"], good["macro_f1"], good["nll"], good["ece"]) == (1, 1, 0, 0)
    assert (bad["accuracy"], bad["macro_f1"], bad["ece"]) == (0, 0, 1)
    assert bad["nll"] == pytest.approx(-np.log(1e-9))


def test_one_class_only():
    got = evaluate(np.zeros((3, 1)), np.zeros(3, np.int64), ("cat",))
    assert (got["accuracy"], got["balanced_accuracy"], got["nll"], got["ece"]) == (1, 1, 0, 0)
    assert got["confusion"] == [[3]]
