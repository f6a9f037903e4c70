"""How well `featcache check` finds wrong labels: a tenth of training labels is flipped, at random.

python studies/check.py CACHE... [--draws 10] [--labels 50 200 1000]

Prints a Markdown table: precision and recall of the doubtful labels against the flips, as means with 95 %
intervals over draws (Student's t). Labels that were wrong before count as false alarms. `top tenth` is the
precision of as many labels as were flipped, the most doubtful first. `confident learning`
is the off-diagonal of its confident joint (arXiv 1911.00068), on the same probabilities. No test row is used.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats

import featcache as fc
from featcache.checking.doubtful import doubts, held_out

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def confident_learning(log_probs: Floats, label: Ints) -> Ints:
    """Return the positions off the diagonal of the confident joint, as cleanlab does."""
    p = np.exp(log_probs)
    own, counts = p[np.arange(len(label)), label], np.bincount(label, minlength=p.shape[1])
    threshold = np.where(counts > 0, np.bincount(label, own, p.shape[1]) / np.maximum(counts, 1), np.inf)
    confident = np.where(p >= threshold, p, -1.0)
    doubted = (confident.max(1) > -1) & (confident.argmax(1) != label) & (p.argmax(1) != label)
    return np.flatnonzero(doubted)


def trial(split: fc.Split, embeddings: NDArray[np.float32], labels: int, seed: int) -> list[float]:
    """Flip a tenth of some labels; return precision and recall of both ways, and the top tenth."""
    generator, classes = np.random.default_rng([labels, seed]), len(split.class_names)
    known = np.flatnonzero(split.labels >= 0)
    rows = np.sort(generator.choice(known, labels, replace=False))
    label, flips = split.labels[rows].copy(), generator.choice(labels, labels // 10, replace=False)
    label[flips] = (label[flips] + generator.integers(1, classes, len(flips))) % classes
    # As in the command: a class with one label is not judged.
    kept = np.flatnonzero(np.bincount(label, minlength=classes)[label] > 1)
    own, values = label[kept], embeddings[rows[kept]]
    wrong = np.isin(kept, flips)
    found = held_out(lambda at: values[at], own, np.arange(len(own)), classes=classes, seed=seed)
    first = doubts(found, own, odds=1e-12).position[: len(flips)]
    figures = []
    for positions in (doubts(found, own).position, confident_learning(found, own)):
        hits = wrong[positions].sum()
        figures += [hits / len(positions) if len(positions) else np.nan, hits / len(flips)]
    return [*figures, float(wrong[first].mean())]


def interval(values: Floats) -> str:
    """Format the mean in percent, and the half-width of its 95 % interval."""
    values = 100 * values[np.isfinite(values)]
    if len(values) < 2:
        return "-"
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return f"{values.mean():.0f} ± {half:.0f}"


def lines(paths: list[Path], budgets: list[int], draws: int) -> Iterator[str]:
    """Yield the lines of the table."""
    names = ("precision", "recall", "CL: precision", "CL: recall", "top tenth")
    yield f"| data | labels | {' | '.join(names)} |"
    yield f"| --- | --- |{' --- |' * len(names)}"
    for path in paths:
        split = fc.Cache.open(path)["train"]
        embeddings = split.embeddings()
        for budget in budgets:
            figures = np.array([trial(split, embeddings, budget, seed) for seed in range(draws)])
            yield f"| {path.stem} | {budget} | {' | '.join(interval(column) for column in figures.T)} |"


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("caches", nargs="+", type=Path)
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--labels", nargs="+", type=int, default=[50, 200, 1000])
    asked = parser.parse_args()
    for line in lines(asked.caches, asked.labels, asked.draws):
        print(line, flush=True)
