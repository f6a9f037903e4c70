"""Estimate the accuracy of a model from few labels: by cross-validation, or by samples held out for good.

Samples held out for good were drawn at random and never seen. The number of right ones is binomial, and the
interval of Clopper and Pearson is exact (its coverage is 95 % or more).

In cross-validation the count of right predictions is not binomial, and `estimate` allows for four things:

- The only label of a class cannot be held out. The lower end counts it as wrong, the upper end as right.
- A fold leaves fewer labels of a class than the final model has. So at the upper end, a wrong prediction
  counts as the share r of the labels of its class that were left. An error that falls as one over the number
  of labels is the steepest learning curve we allow for. (The only label of a class is the limit r = 0.)
- Classes that have one label show that other classes may have none. A random draw of n labels misses
  a share of N1 / n of the samples on average (Good, Biometrika 40, 1953), and the error of this figure has
  the variance (N1 (1 - N1 / n) + 2 N2) / n^2 (Esty, Annals of Statistics 11, 1983). N1 and N2 are the
  numbers of classes with one and with two labels. The first part is the binomial one; the lower end adds
  2 min(N1, N2) / n^2. With N1 = 0, nothing shows that a class was missed.
- The predictions depend on each other, because their models share labels. A lucky draw of labels is well
  predicted by itself, and then the model is worse than it seems (Bates, Hastie and Tibshirani, arXiv
  2104.00673). So n labels count as 2 n / 3.

Both ends are quantiles of beta distributions, as those of Clopper and Pearson. The rule was chosen by
simulation on training rows; docs/estimates.md has its coverage.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.training.held_out import HeldOut

Ints = NDArray[np.int64]
LEVEL = 0.95
SPREAD = 1.5
"""Variance of a cross-validated accuracy, as a multiple of the binomial one."""
WIDEST = 0.6
"""Width of an interval, above which no single figure is given."""
METHOD = "stratified cross-validation; interval of Clopper and Pearson, widened for single labels and folds"


def binomial_interval(right: float, samples: float, level: float = LEVEL) -> tuple[float, float]:
    """Return the interval of Clopper and Pearson for a share, from 0 to 1; no count needs to be whole.

    Source: Biometrika 26 (1934), 404-413, as quantiles of the beta distribution.

    >>> tuple(round(end, 3) for end in binomial_interval(18, 20))
    (0.683, 0.988)
    """
    from scipy.stats import beta

    tail, wrong = (1 - level) / 2, samples - right
    low = float(beta.ppf(tail, right, wrong + 1)) if right > 0 else 0.0
    high = float(beta.ppf(1 - tail, right + 1, wrong)) if wrong > 0 else 1.0
    return low, high


def holdout_interval(right: int, samples: int) -> dict[str, float]:
    """Return `low`, `high` and `level` of the accuracy, if `right` of `samples` unseen ones are right.

    >>> holdout_interval(0, 0)
    {'low': 0.0, 'high': 1.0, 'level': 0.95}
    """
    low, high = binomial_interval(right, samples)
    return {"low": low, "high": high, "level": LEVEL}


def cross_validated_interval(held_out: HeldOut, *, random: bool = True) -> tuple[float, float, float]:
    """Return the estimate and the two ends of its interval, as the docstring of the module says.

    For labels drawn at random, the estimate is the share that the lower end counts as right. It is unbiased
    for models of as many labels as a fold leaves, also where classes have no label. For chosen labels, it is
    the mean of the shares of both ends: most classes have a label, and a fold takes half of two.
    """
    samples, known = len(held_out.label), held_out.known
    alone = samples / SPREAD
    right = np.where(known, held_out.correct.clip(min=0).mean(0), 0.0)
    wrong = np.where(known, (1 - right) * held_out.kept, 0.0)
    least, most = float(right.sum()), float(samples - wrong.sum())
    counts = np.bincount(held_out.label)
    missed = 2 * min(int((counts == 1).sum()), int((counts == 2).sum())) / samples**2
    share = least / samples
    plain = share * (1 - share) / alone
    alike = alone * plain / (plain + missed) if plain else alone
    low = binomial_interval(alike * share, alike)[0]
    high = binomial_interval(alone * most / samples, alone)[1]
    return least / samples if random else (least + most) / (2 * samples), low, high


def estimate(
    held_out: HeldOut | None, label: Ints, class_names: Sequence[str], *, random: bool = True
) -> dict[str, Any]:
    """Estimate which share of all other samples the final model predicts right, classes unseen included.

    `label` (n,) are the labels that the final model learned from. `random` says that they were drawn at
    random; chosen ones are not like the other samples, and the sentence says so.

    Return `accuracy`, `low`, `high`, `level`, `method`, `labels`, `held_out` (labels predicted without
    being seen), `folds`, `repeats`, `per_class` (recall by class name) and `sentence`. `accuracy` is None
    if the interval is wider than 0.6, or if no class has two labels.
    """
    figures: dict[str, Any] = {"accuracy": None, "low": 0.0, "high": 1.0, "level": LEVEL, "method": METHOD}
    figures |= {"labels": len(label), "held_out": 0, "folds": 0, "repeats": 0, "per_class": {}}
    if held_out is not None:
        middle, low, high = cross_validated_interval(held_out, random=random)
        figures |= {
            "accuracy": middle if high - low <= WIDEST else None,
            "low": low,
            "high": high,
            "held_out": int(held_out.known.sum()),
            "folds": held_out.folds,
            "repeats": len(held_out.correct),
            "per_class": _recall(held_out, class_names),
        }
    return figures | {"sentence": _sentence(figures, random)}


def _recall(held_out: HeldOut, class_names: Sequence[str]) -> dict[str, float]:
    """Return the share of the held-out labels of each class that were predicted right."""
    known = held_out.known
    right, label = held_out.correct[:, known].mean(0), held_out.label[known]
    return {class_names[c]: float(right[label == c].mean()) for c in np.unique(label).tolist()}


def _sentence(figures: dict[str, Any], random: bool) -> str:
    """Say in plain English what the figures mean."""
    labels, held = figures["labels"], figures["held_out"]
    if not held:
        return (
            f"No class has two labels, so your {labels} labels cannot say how good the predictions are: "
            "label a second sample of some classes."
        )
    ends = f"{100 * figures['low']:.0f} to {100 * figures['high']:.0f} %"
    single = labels - held
    only = "is the only one of its class" if single == 1 else "are the only ones of their classes"
    rest = f", of which {single} {only} and cannot be tested" if single else ""
    source = f"from cross-validation of your {labels} labels{rest}"
    if figures["accuracy"] is None:
        said = (
            f"Your {labels} labels are too few to say how good the predictions are: {ends} right ({source})"
        )
    else:
        share = f"{100 * figures['accuracy']:.0f} %"
        said = f"About {share} of the other samples are expected right (95 % interval {ends}), {source}"
    chosen = ". The labels were not drawn at random, so this is no more than a hint"
    return said + ("" if random else chosen) + "."
