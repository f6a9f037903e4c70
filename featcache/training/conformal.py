"""Sets of classes that hold the true class with a promised frequency: conformal prediction.

Every labelled sample was predicted by models that did not learn from it (cross-validation). The score of a
class is s(x, y) = -log q(y | x), so an unlikely class has a large score. With n labelled samples and a
coverage of 1 - a, the threshold is the ceil((n + 1)(1 - a))-th smallest score of a true class. The set of a
sample has every class with a score up to the threshold.

Sources: Vovk, Gammerman and Shafer 2005; the score is LAC (Sadinle et al., arXiv 1609.00451); scores of
held-out folds in place of a separate calibration set are those of arXiv 1905.02928. There, the models of the
folds also predict the new sample. Here the final model does, which has learned from all labels. Then the
coverage is no theorem, so `studies/conformal.py` measures it. Angelopoulos and Bates, arXiv 2107.07511,
explain the method.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from featcache.errors import TrainError, option
from featcache.training.held_out import HeldOut

Floats = NDArray[np.float64]


def threshold(scores: Floats, coverage: float) -> float:
    """Return the ceil((n + 1) coverage)-th smallest of (n,) scores; infinity if n is smaller than that.

    A further score that is exchangeable with these is at most the threshold with a probability of at least
    `coverage`.

    >>> threshold(np.arange(1.0, 10.0), 0.9), threshold(np.arange(1.0, 9.0), 0.9)
    (9.0, inf)
    """
    rank = math.ceil((len(scores) + 1) * coverage - 1e-9)  # 0.9 x 10 is 9, also where floats say more
    return float(np.sort(scores)[rank - 1]) if rank <= len(scores) else math.inf


def fewest(coverage: float) -> int:
    """Return the least number of labels for a coverage.

    >>> fewest(0.9), fewest(0.95), fewest(0.5)
    (9, 19, 1)
    """
    return math.ceil(coverage / (1 - coverage) - 1e-9)


def calibrate(held_out: HeldOut | None, class_names: Sequence[str], coverage: float, run: object) -> float:
    """Return the threshold on -log q for a coverage.

    Raises TrainError if the labels do not suffice to promise it: no held-out predictions, too few of them, or
    a class of the run that none of them has.
    """
    if held_out is None:
        raise TrainError(
            f"the run {run} cannot promise a coverage",
            got="no predictions of held-out labels",
            expected="a run with cross-validation",
            hint=f"train again with {option('cv', 5)}, or without {option('coverage')}",
        )
    label, log_probs = held_out.label[held_out.known], held_out.log_probs[held_out.known]
    if len(label) < fewest(coverage):
        raise TrainError(
            f"too few labels to promise a coverage of {coverage:g}",
            got=f"{len(label)} held-out labels",
            expected=f"at least {fewest(coverage)}",
            hint=f"label more samples, or lower {option('coverage')}",
        )
    if absent := np.setdiff1d(np.arange(len(class_names)), label).tolist():
        raise TrainError(
            f"the run {run} cannot promise a coverage for classes that no held-out label has",
            got=", ".join(class_names[c] for c in absent[:5]) + (", ..." if len(absent) > 5 else ""),
            expected="two or more labels of every class",
            hint="label more samples of these classes",
        )
    return threshold(-log_probs[np.arange(len(label)), label], coverage)


def classes_within(log_probs: Floats, limit: float) -> NDArray[np.bool_]:
    """Return (N, C) True for the classes with -log q up to `limit`, and always for the most probable one.

    >>> classes_within(np.log(np.array([[0.6, 0.3, 0.1], [0.4, 0.3, 0.3]])), -np.log(0.35)).tolist()
    [[True, False, False], [True, False, False]]
    """
    within = -log_probs <= limit
    within[np.arange(len(within)), log_probs.argmax(1)] = True
    return np.asarray(within)
