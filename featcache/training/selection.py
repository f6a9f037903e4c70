"""Select a setting without test labels, by scores of unlabelled samples and by cross-validation.

For every score, larger is better. A single score can mislead: a wrong model may be confident, well separated
or of high rank. So the ranks of the scores are averaged (Borda count).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
ROWS = 2000
"""Most unlabelled samples to score."""


def sample(unlabelled: NDArray[np.int64], labelled: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Draw the rows to score: ROWS rows without a label, sorted, or all if there are fewer.

    >>> sample(np.arange(5), np.array([0, 3]), seed=0)
    array([1, 2, 4])
    """
    rows = np.setdiff1d(unlabelled, labelled)
    if len(rows) <= ROWS:
        return rows
    return np.sort(np.random.default_rng([seed, ROWS]).choice(rows, ROWS, replace=False))


def scores(z: Floats, log_probs: Floats, other: Floats | None = None) -> dict[str, float]:
    """Compute all scores of N samples.

    `z` is (N, d); `log_probs` is (N, C) in nats, and so is `other`, that of a second view.

    - silhouette (-1 to 1) and calinski_harabasz (scikit-learn) measure the separation of the predicted
      classes, for z centred and scaled to unit length. If only one class is predicted, they are -1 and 0.
    - rankme (1 to d) is the effective rank of z.
    - marginal_entropy (nats) measures how evenly the classes are predicted.
    - confidence is the mean of the largest probability.
    - agreement is the share of samples with the same predicted class in both views. It is missing
      without a second view.
    """
    probs, predicted = np.exp(log_probs), log_probs.argmax(1)
    marginal = probs.mean(0)
    found = {
        **_separation(z, predicted),
        "rankme": rankme(z),
        "marginal_entropy": float(-(marginal * np.log(np.maximum(marginal, 1e-300))).sum()),
        "confidence": float(probs.max(1).mean()),
    }
    if other is not None:
        found["agreement"] = float((predicted == other.argmax(1)).mean())
    return found


def rankme(z: Floats) -> float:
    """Compute the effective rank exp(-sum_k p_k log p_k), with p_k = sigma_k / sum(sigma) + 1e-7.

    The sigma_k are the singular values of z. Source: arXiv 2210.02885, equation 1.

    >>> round(rankme(np.eye(4)), 3), round(rankme(np.ones((4, 4))), 3)
    (4.0, 1.0)
    """
    sigma = np.linalg.svd(z, compute_uv=False)
    p = sigma / max(float(sigma.sum()), 1e-300) + 1e-7
    return float(np.exp(-(p * np.log(p)).sum()))


def borda(candidates: Sequence[Mapping[str, float]]) -> list[float]:
    """Compute the mean rank of each candidate over the scores that all candidates have.

    Rank 1 is best; equal scores share the mean of their ranks.

    >>> borda([{"a": 1.0, "b": 5.0}, {"a": 2.0, "b": 5.0}, {"a": 3.0, "b": 1.0}])
    [2.25, 1.75, 2.0]
    """
    from scipy.stats import rankdata

    names = [name for name in candidates[0] if all(name in candidate for candidate in candidates)]
    if not names:
        return [1.0] * len(candidates)
    ranks = [rankdata([-candidate[name] for candidate in candidates]) for name in names]
    return [float(mean) for mean in np.mean(ranks, axis=0)]


def folds(labels: NDArray[np.int64], wanted: int, seed: int) -> list[NDArray[np.int64]]:
    """Draw stratified folds as positions in `labels`: at most `wanted`, none if a class has one sample.

    >>> folds(np.array([0, 0, 1]), 3, seed=0)
    []
    """
    from sklearn.model_selection import StratifiedKFold

    smallest = int(np.unique(labels, return_counts=True)[1].min())
    if min(wanted, smallest) < 2:
        return []
    split = StratifiedKFold(min(wanted, smallest), shuffle=True, random_state=seed)
    return [held for _, held in split.split(labels, labels)]


def deal(labels: NDArray[np.int64], wanted: int, seed: int | Sequence[int]) -> list[NDArray[np.int64]]:
    """Draw `wanted` stratified folds of equal size, as sorted positions in `labels`.

    They hold every label of a class with at least two, and never the only label of a class. Labels of one
    class are in different folds as far as there are enough. There are at most as many folds as labels to
    hold out, and none if no class has two.

    >>> sorted(np.concatenate(deal(np.array([0, 0, 1, 2, 2]), 10, seed=0)).tolist())
    [0, 1, 3, 4]
    """
    _, index, counts = np.unique(labels, return_inverse=True, return_counts=True)
    rng = np.random.default_rng(seed)
    order, rank = rng.permutation(len(labels)), rng.permutation(len(counts))
    order = order[counts[index[order]] > 1]
    order = order[np.argsort(rank[index[order]], kind="stable")]
    return [np.sort(order[first::wanted]) for first in range(min(wanted, len(order)))]


def _separation(z: Floats, predicted: NDArray[np.int64]) -> dict[str, float]:
    from sklearn.metrics import calinski_harabasz_score, silhouette_score

    # Features of one model share a large mean, which would hide the differences between classes.
    centred = z - z.mean(0)
    unit = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
    if not 2 <= len(np.unique(predicted)) < len(z):
        return {"silhouette": -1.0, "calinski_harabasz": 0.0}
    return {
        "silhouette": float(silhouette_score(unit, predicted)),
        "calinski_harabasz": float(calinski_harabasz_score(unit, predicted)),
    }
