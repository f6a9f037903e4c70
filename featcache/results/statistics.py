"""Compute means, standard deviations and paired differences with their 95 % intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student_t

CLEAR_PAIRS = 5
"""Pairs from which a difference may count as clear: with fewer, an interval says little, and a table of many
rows shows some clear difference by chance.
"""


@dataclass(frozen=True)
class Difference:
    """A paired difference: its mean and the half-width of its 95 % interval."""

    mean: float
    half_width: float
    """Infinite for a single pair."""
    pairs: int
    """The number of pairs."""

    @property
    def clear(self) -> bool:
        """True if the interval excludes zero and there are at least CLEAR_PAIRS pairs."""
        return self.pairs >= CLEAR_PAIRS and abs(self.mean) > self.half_width


def paired(a: Sequence[float], b: Sequence[float]) -> Difference:
    """Return the mean of a - b with its 95 % interval (Student's t), pair by pair.

    >>> d = paired([3.0, 4.0, 5.0], [1.0, 2.0, 2.0])
    >>> round(d.mean, 2), round(d.half_width, 2)
    (2.33, 1.43)
    """
    gaps = np.subtract(a, b)
    if len(gaps) < 2:
        return Difference(float(gaps.mean()), math.inf, len(gaps))
    standard_error = gaps.std(ddof=1) / math.sqrt(len(gaps))
    half_width = float(student_t.ppf(0.975, len(gaps) - 1) * standard_error)
    return Difference(float(gaps.mean()), half_width, len(gaps))


def mean_and_std(values: Sequence[float]) -> tuple[float, float | None]:
    """Return the mean and the standard deviation (n - 1), which is None for a single value.

    >>> mean_and_std([50.0, 60.0, 70.0]), mean_and_std([50.0])
    ((60.0, 10.0), (50.0, None))
    """
    array = np.asarray(values, float)
    return float(array.mean()), float(array.std(ddof=1)) if len(array) > 1 else None
