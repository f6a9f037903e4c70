"""Temperature scaling and reliability of confidences."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.training.metrics import BINS, bin_of, expected_calibration_error

Floats = NDArray[np.float64]
COLDEST, HOTTEST = 1 / 20, 20.0
"""Range of the temperature T; for samples that are all wrong, the best T would be infinite."""


def fit_temperature(log_probs: Floats, labels: NDArray[np.int64], coldest: float = COLDEST) -> float:
    """Fit the T in [`coldest`, 20] with the least NLL of softmax(log_probs / T).

    `log_probs` is (n, C) in nats, `labels` is (n,). Use `coldest` = 1 for samples that the model was trained
    on. The model is overconfident on these, so T must not make it more confident.

    Two samples are added to the n samples, one predicted right and one wrong. Their negative log-likelihoods
    are the means over the n samples. So if all n are right, the confidence becomes (n + 1) / (n + 2) and
    not 1.

    Sources: arXiv 1706.04599, equation 9; the added samples are Platt's targets (1999).

    >>> log_probs, labels = np.log(np.array([[0.6, 0.4]] * 8)), np.zeros(8, np.int64)
    >>> round(float(np.exp(scaled(log_probs, fit_temperature(log_probs, labels))[0, 0])), 3)
    0.9
    """
    from scipy.optimize import minimize_scalar

    if log_probs.shape[1] == 1:
        return 1.0  # one class is certain at any temperature

    def loss(log_t: float) -> float:
        after = scaled(log_probs, float(np.exp(log_t)))
        added = right_or_wrong(after).mean(axis=0).sum()
        return len(labels) * negative_log_likelihood(after, labels) - float(added)

    low, high = float(np.log(coldest)), float(np.log(HOTTEST))
    found = float(minimize_scalar(loss, bounds=(low, high), method="bounded").x)
    # The bounded search comes near an end of its interval and never reaches it.
    return float(np.exp(min((low, high, found), key=loss)))


def right_or_wrong(log_probs: Floats) -> Floats:
    """Return (N, 2) log-probabilities: the most probable class is right, and it is wrong.

    >>> np.exp(right_or_wrong(np.log(np.array([[0.7, 0.2, 0.1]])))).round(3).tolist()
    [[0.7, 0.3]]
    """
    from scipy.special import logsumexp

    ordered = np.sort(log_probs, axis=1)
    return np.stack([ordered[:, -1], logsumexp(ordered[:, :-1], axis=1)], axis=1)


def scaled(log_probs: Floats, temperature: float) -> Floats:
    """Return the (N, C) log-probabilities of softmax(log_probs / T)."""
    from scipy.special import log_softmax

    rescaled: Floats = log_softmax(log_probs / temperature, axis=1)
    return rescaled


def negative_log_likelihood(log_probs: Floats, labels: NDArray[np.int64]) -> float:
    """Return the mean negative log-likelihood over samples, in nats."""
    return float(-log_probs[np.arange(len(labels)), labels].mean())


def reliability(log_probs: Floats, labels: NDArray[np.int64], bins: int = BINS) -> dict[str, list[Any]]:
    """Return lists over equal-width bins of confidence: `count`, mean `confidence` and `accuracy`.

    Confidence and accuracy of an empty bin are None.

    >>> reliability(np.log(np.array([[0.75, 0.25]] * 4)), np.array([0, 0, 0, 1]), bins=2)
    {'count': [0, 4], 'confidence': [None, 0.75], 'accuracy': [None, 0.75]}
    """
    confidence, correct = np.exp(log_probs.max(1)), log_probs.argmax(1) == labels
    index = bin_of(confidence, bins)
    count = np.bincount(index, minlength=bins)

    def means(values: NDArray[Any]) -> list[float | None]:
        sums = np.bincount(index, weights=values, minlength=bins)
        return [float(total / n) if n else None for total, n in zip(sums, count, strict=True)]

    return {"count": count.tolist(), "confidence": means(confidence), "accuracy": means(correct)}


def calibration(log_probs: Floats, labels: NDArray[np.int64], temperature: float) -> dict[str, Any]:
    """Return nll_scaled (nats) and ece_scaled at a temperature, and `reliability` before and after."""
    after = scaled(log_probs, temperature)
    return {
        "nll_scaled": negative_log_likelihood(after, labels),
        "ece_scaled": expected_calibration_error(after, labels),
        "reliability": {"before": reliability(log_probs, labels), "after": reliability(after, labels)},
    }
