"""Doubtful labels: those that models which did not see them contradict.

    odds(x) = max_k!=y p_k(x) / p_y(x),    doubtful: odds(x) >= 10,    doubt(x) = odds(x) / (1 + odds(x))

p are held-out probabilities, after one temperature that calibrates them on the labels at hand. Confident
learning (Northcutt, Jiang and Chuang, arXiv 1911.00068) doubts a label where another class reaches its own
mean confidence. With tens of labels that mean is low, and every third label is doubted; docs/check.md
compares both.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from featcache.checking.neighbours import Read
from featcache.objectives.base import ProbeData
from featcache.objectives.linear import Linear, LinearOptions
from featcache.training.calibration import fit_temperature, scaled

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
ODDS = 10.0
"""Odds of another class against the label from which it is doubtful."""
FOLDS = 5
REPEATS = 3
"""Cross-validations whose probabilities are averaged, if there are at most FEW labels."""
FEW = 1000
"""Most labels on which the regularisation is chosen."""
LEARNED = 20_000
"""Most labels that one fit learns from, drawn at random if there are more."""
STRENGTHS = tuple(10.0**power for power in range(-3, 3))
"""Inverse regularisation strengths C to choose from."""


class Doubts(NamedTuple):
    """Doubtful samples, the most doubtful first."""

    position: Ints
    """(n,) positions in what was judged."""
    suggested: Ints
    """(n,) the class that the models prefer."""
    doubt: Floats
    """(n,) the probability of that class among the two, from 0 to 1."""


def doubts(log_probs: Floats, label: Ints, odds: float = ODDS) -> Doubts:
    """Judge labels (n,) by log-probabilities (n, C) of models that did not see them.

    >>> probability = np.array([[0.95, 0.05]] * 50 + [[0.05, 0.95]] * 50)
    >>> found = doubts(np.log(probability), np.array([0] * 49 + [1] * 51))
    >>> found.position.tolist(), found.suggested.tolist(), found.doubt > 0.9
    ([49], [0], array([ True]))
    """
    from scipy.special import expit

    p, every = scaled(log_probs, fit_temperature(log_probs, label)), np.arange(len(label))
    own, others = p[every, label], p.copy()
    others[every, label] = -np.inf
    suggested, margin = others.argmax(1), others.max(1) - own
    order = np.flatnonzero(margin >= math.log(odds))
    order = order[np.argsort(-margin[order], kind="stable")]
    return Doubts(order, suggested[order], np.asarray(expit(margin[order])))


def held_out(
    read: Read,
    label: Ints,
    group: Ints,
    *,
    classes: int,
    seed: int = 0,
    done: Callable[[int], object] = lambda n: None,
) -> Floats:
    """Cross-validate the linear probe; return the log-probabilities (n, C) of n labelled samples.

    `read` reads positions of the samples as (m, P). Samples of one `group` (n,) share a fold: a copy in the
    training part would confirm whatever its label says. C is chosen by the held-out likelihood of at most
    1000 samples. `done` receives the number of finished fits, out of `fits(n)`.
    """
    generator = np.random.default_rng(seed)
    few = np.sort(generator.permutation(len(label))[:FEW])
    probe = _Crossed(lambda positions: read(few[positions]), label[few], classes, done)
    parts, own = folds(label[few], group[few], 3, generator), np.arange(len(few))

    def loss(strength: float) -> float:
        return -float(probe.predict(parts, strength, generator)[own, label[few]].mean())

    strength, probe = min(STRENGTHS, key=loss), _Crossed(read, label, classes, done)
    repeats = [
        probe.predict(folds(label, group, FOLDS, generator), strength, generator)
        for _ in range(_repeats(len(label)))
    ]
    mean = np.mean(repeats, axis=0)
    return np.asarray(mean - np.logaddexp.reduce(mean, axis=1, keepdims=True))


def fits(labels: int) -> int:
    """Return the number of fits that `held_out` makes for a number of labels."""
    return 3 * len(STRENGTHS) + FOLDS * _repeats(labels)


def folds(label: Ints, group: Ints, count: int, generator: np.random.Generator) -> Ints:
    """Deal samples to folds (n,): classes evenly, groups whole.

    >>> folds(np.array([0, 0, 1, 1]), np.array([0, 1, 2, 2]), 2, np.random.default_rng(0)).tolist()
    [1, 0, 0, 0]
    """
    first, member = np.unique(group, return_index=True, return_inverse=True)[1:]
    order = np.lexsort((generator.random(len(first)), label[first]))
    fold = np.empty(len(first), np.int64)
    fold[order] = np.arange(len(first)) % count
    return fold[member]


def _repeats(labels: int) -> int:
    return REPEATS if labels <= FEW else 1


class _Crossed(NamedTuple):
    """Labelled samples to learn from and to predict, in turns."""

    read: Read
    label: Ints
    classes: int
    done: Callable[[int], object]

    def predict(self, fold: Ints, strength: float, generator: np.random.Generator) -> Floats:
        """Predict each fold by a probe of the others; return log-probabilities (n, C)."""
        found, probe = np.zeros((len(self.label), self.classes)), Linear(LinearOptions(C=strength))
        for number in range(int(fold.max()) + 1):
            held, others = np.flatnonzero(fold == number), np.flatnonzero(fold != number)
            rows = np.sort(generator.permutation(others)[:LEARNED])
            learned = torch.from_numpy(self.read(rows)), torch.from_numpy(self.label[rows])
            predict = probe.fit(ProbeData(*learned, self.classes, None), seed=0)
            for start in range(0, len(held), LEARNED):
                part = held[start : start + LEARNED]
                found[part] = predict(torch.from_numpy(self.read(part))).double().numpy()
            self.done(1)
        return found
