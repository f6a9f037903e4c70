"""Metrics of predictions: accuracy, F1, negative log-likelihood, calibration error and AUROC."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
BINS = 15
"""Number of bins of confidence; they have equal width, and each is (low, high]."""


def evaluate(log_probs: Floats, labels: NDArray[np.int64], class_names: Sequence[str]) -> dict[str, Any]:
    """Compute all metrics of a test from `log_probs` (N, C) in nats and `labels` (N,) without -1.

    Return accuracy, balanced_accuracy and macro_f1 (both over the classes present), nll (nats), ece and
    samples. `per_class` is the accuracy by class name. `confusion` has a row for each true class and a
    column for each predicted one.

    >>> good = evaluate(np.log(np.array([[0.9, 0.1], [0.2, 0.8]])), np.array([0, 1]), ("cat", "dog"))
    >>> good["accuracy"], round(good["nll"], 3)
    (1.0, 0.164)
    """
    classes, predicted = len(class_names), log_probs.argmax(1)
    # Not by scikit-learn: its import takes as long as torch's, and it warns if there is only one class.
    confusion = np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)
    present = np.flatnonzero(confusion.sum(1))
    right, true = confusion.diagonal()[present], confusion.sum(1)[present]
    recall, f1 = right / true, 2 * right / (true + confusion.sum(0)[present])
    return {
        "accuracy": float((predicted == labels).mean()),
        "balanced_accuracy": float(recall.mean()),
        "macro_f1": float(f1.mean()),
        "nll": float(-log_probs[np.arange(len(labels)), labels].mean()),
        "ece": expected_calibration_error(log_probs, labels),
        "samples": len(labels),
        "per_class": {class_names[int(c)]: float(share) for c, share in zip(present, recall, strict=True)},
        "confusion": confusion.tolist(),
    }


def open_set(known: Floats, unknown: Floats) -> dict[str, Any]:
    """Measure how well confidence separates known classes (N, C) from unknown ones (M, C).

    Both are log-probabilities. Return auroc and unknown (M). AUROC is the probability that a sample of a
    known class has a higher confidence than one of an unknown class. This is the baseline of Hendrycks and
    Gimpel (arXiv 1610.02136).

    >>> open_set(np.log(np.array([[0.9, 0.1], [0.6, 0.4]])), np.log(np.array([[0.5, 0.5]])))
    {'auroc': 1.0, 'unknown': 1}
    """
    return {"auroc": auroc(known.max(1), unknown.max(1)), "unknown": len(unknown)}


def auroc(higher: Floats, lower: Floats) -> float:
    """Return the probability that one of `higher` is above one of `lower`; equal ones count half.

    >>> auroc(np.array([3.0, 2.0]), np.array([1.0, 2.0]))
    0.875
    """
    from sklearn.metrics import roc_auc_score

    truth = np.repeat([1, 0], [len(higher), len(lower)])
    return float(roc_auc_score(truth, np.concatenate([higher, lower])))


def expected_calibration_error(log_probs: Floats, labels: NDArray[np.int64], bins: int = BINS) -> float:
    """Compute the mean gap between confidence and accuracy over equal-width bins of confidence.

    Source: arXiv 1706.04599, equation 3.

    >>> expected_calibration_error(np.log(np.array([[0.75, 0.25]] * 4)), np.array([0, 0, 0, 1]))
    0.0
    """
    confidence = np.exp(log_probs.max(1))
    correct = log_probs.argmax(1) == labels
    gap = np.bincount(bin_of(confidence, bins), weights=confidence - correct, minlength=bins)
    return float(np.abs(gap).sum() / len(labels))


def bin_of(confidence: Floats, bins: int) -> NDArray[np.int64]:
    """Return the bin of each of (N,) confidences, from 0 to bins - 1.

    >>> bin_of(np.array([0.0, 0.5, 0.51, 1.0]), 2)
    array([0, 0, 1, 1])
    """
    return np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
