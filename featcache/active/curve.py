"""Measure a learning curve on the labels at hand, and forecast what more labels would bring.

    error(m) = exp(a) m^-b,  b >= 0        least squares of log error on log m

Each of some repeats splits the labelled rows into five folds. A classifier learns from random subsets of four
folds, and its errors are counted on the fifth. Sources: inverse power laws as learning curves, Cortes et al.
(NeurIPS 1993), and Figueroa et al. (BMC Medical Informatics and Decision Making 12:8, 2012).

Rows that were chosen are harder than others, and more varied. So each labelled row counts as many times as
there are rows nearer to it than to any other labelled row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from featcache.active.space import Rows, Vectors
from featcache.objectives.base import ProbeData
from featcache.objectives.linear import Linear, LinearOptions

FEWEST = 20
"""Fewest labels to measure a curve on."""
MOST = 1000
"""Most labels to measure it on; more are drawn at random to this number."""
WORTH = 0.01
"""Least gain in accuracy that is worth a batch of labels."""
SHARES = (0.4, 0.55, 0.75, 1.0)
FOLDS, REPEATS, BOOTSTRAPS = 5, 6, 1000
Floats = NDArray[np.float64]
Predict = Callable[[Rows, Rows], Rows]
"""Learn from some of the labelled rows, and return the predicted classes of others."""


class Curve(NamedTuple):
    """Held-out predictions of classifiers that learned from few and from more labels."""

    sizes: Floats
    """(M,) mean number of labels that they learned from."""
    right: NDArray[np.bool_]
    """(R, M, n) True where a labelled row was predicted right, in each repeat."""


@dataclass(frozen=True)
class Forecast:
    """The accuracy with `labels` and with `more` labels beside them, from 0 to 1, with 95 % intervals.

    Everything but the numbers of labels is None if there are too few labels to say anything.
    """

    labels: int
    more: int
    now: float | None = None
    gain: float | None = None
    gain_interval: tuple[float, float] | None = None
    sizes: tuple[int, ...] = ()
    accuracy: tuple[float, ...] = ()
    """The measured curve: the accuracy of held-out rows, by number of labels."""

    @property
    def stop(self) -> bool | None:
        """True if the gain is not worth the labels, and may be none at all."""
        if self.gain is None or self.gain_interval is None:
            return None
        return self.gain < WORTH and self.gain_interval[0] <= 0

    def text(self) -> str:
        """Return one sentence or two for a person."""
        if self.gain is None or self.gain_interval is None:
            return (
                f"With {self.labels} labels there is no telling what {self.more} more would bring; "
                f"{FEWEST} labels of two classes or more are needed."
            )
        low, high = (100 * end for end in self.gain_interval)
        said = (
            f"{self.more} more labels: about {100 * self.gain:+.1f} points of accuracy (95 % interval "
            f"{low:+.1f} to {high:+.1f}, by linear probes on {self.labels} labels)."
        )
        return said + (f" Less than {100 * WORTH:.0f} point, and perhaps none." if self.stop else "")


def linear_probe(pooled: Vectors, label: Rows) -> Predict:
    """Return a function that fits a linear probe (C = 1) on some of n rows, (n, P) and (n,), for others."""
    embeddings, classes = torch.from_numpy(pooled), int(label.max()) + 1
    probe = Linear(LinearOptions(C=1.0))  # choosing C would take 18 fits for each

    def predict(learned: Rows, asked: Rows) -> Rows:
        data = ProbeData(embeddings[learned], torch.from_numpy(label[learned]), classes, None)
        found: Rows = probe.fit(data, 0)(embeddings[asked]).argmax(1).numpy()
        return found

    return predict


def measure(predict: Predict, label: Rows, rng: np.random.Generator, repeats: int = REPEATS) -> Curve:
    """Measure the curve of n labelled rows with classes `label` (n,)."""
    rows, folds = len(label), min(FOLDS, len(label))
    right = np.zeros((repeats, len(SHARES), rows), bool)
    sizes = np.zeros(len(SHARES))
    for repeat in range(repeats):
        fold = np.empty(rows, np.int64)
        # Rows of one class are dealt out in turn, so that each fold has its share of it.
        fold[np.lexsort((rng.random(rows), label))] = np.arange(rows) % folds
        for number in range(folds):
            held, order = np.flatnonzero(fold == number), rng.permutation(np.flatnonzero(fold != number))
            for place, share in enumerate(SHARES):
                part = np.sort(order[: max(1, round(share * len(order)))])
                right[repeat, place, held] = predict(part, held) == label[held]
                sizes[place] += len(part) / (repeats * folds)
    return Curve(sizes, right)


def forecast(curve: Curve, labels: int, more: int, weight: Floats, rng: np.random.Generator) -> Forecast:
    """Extrapolate a curve to `labels` and to `labels + more`.

    `weight` (n,) is how many rows a labelled row stands for. The interval is a bootstrap over rows and
    repeats: a draw takes one repeat only, as the next labels come only once. The spread of the accuracies
    around the curve is added, at both of its ends.
    """
    rows = curve.right.shape[2]
    counts = rng.multinomial(rows, np.full(rows, 1 / rows), size=BOOTSTRAPS) * weight
    repeat = rng.integers(0, len(curve.right), BOOTSTRAPS)
    drawn = np.stack([curve.right[r] @ w / max(w.sum(), 1e-12) for r, w in zip(repeat, counts, strict=True)])
    accuracy = curve.right.mean(0) @ weight / weight.sum()
    now, gain, spread = _extrapolated(curve.sizes, accuracy[None], labels, more)
    _, gains, _ = _extrapolated(curve.sizes, drawn, labels, more)
    gains = gains + 2**0.5 * spread * rng.standard_normal(BOOTSTRAPS)
    low, high = np.quantile(gains, [0.025, 0.975])
    return Forecast(
        labels,
        more,
        float(now[0]),
        float(gain[0]),
        (float(low), float(high)),
        tuple(round(size) for size in curve.sizes.tolist()),
        tuple(accuracy.tolist()),
    )


def _extrapolated(sizes: Floats, accuracy: Floats, labels: int, more: int) -> tuple[Floats, Floats, Floats]:
    """Fit each of (B, M) curves; return the accuracy with `labels`, what `more` add to it, and the spread.

    The spread is the standard deviation of the measured accuracy around the curve.
    """
    # No error in n rows is not an error of 0: half a row less than one is as likely.
    error, x = np.log(np.maximum(1 - accuracy, 0.25 / labels)), np.log(sizes)
    centred = x - x.mean()
    slope = np.minimum(error @ centred / (centred @ centred), 0)
    start = error.mean(1) - slope * x.mean()
    now, then = (np.minimum(np.exp(start + slope * np.log(size)), 1) for size in (labels, labels + more))
    fitted = np.exp(start[:, None] + slope[:, None] * x)
    spread = np.sqrt(((1 - accuracy - fitted) ** 2).sum(1) / max(1, len(x) - 2))
    return 1 - now, now - then, spread
