"""Check the promise of `featcache predict --coverage`: how often do sets hold the true class, how large?

    python studies/conformal.py CACHE ... [--rows train|test] [--draws 20] [--objective linear]
    python studies/conformal.py CACHE --runs RUN ...

For every draw, a probe learns from 20, 50 or 200 labels (in proportion to the classes), and once more without
each of five folds. The threshold is that of the held-out folds. With `--rows train` (to choose a score), one
half of the training rows is for labels, and the other is predicted; no test row is read. With `--rows test`
(to report it), the test rows are predicted. With `--runs`, finished runs of any objective predict the test
rows of CACHE.

Coverage is a mean over draws with its 95 % interval (Student's t). A single draw varies around it, because
its threshold comes from few labels.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import featcache as fc
from featcache import plugins
from featcache.loading.splits import draw_labels
from featcache.objectives.base import ProbeData
from featcache.training.calibration import fit_temperature, scaled
from featcache.training.conformal import fewest, threshold
from featcache.training.selection import folds

Floats = NDArray[Any]
LABELS = (20, 50, 200)


def aps(log_probs: Floats) -> Floats:
    """Return the probability of all classes up to each one, the most probable first (arXiv 2006.02544)."""
    order = np.argsort(-log_probs, 1)
    total = np.cumsum(np.take_along_axis(np.exp(log_probs), order, 1), 1)
    return np.take_along_axis(total, np.argsort(order, 1), 1)


SCORES: dict[str, Callable[[Floats], Floats]] = {
    "LAC": lambda log_probs: -log_probs,
    "margin": lambda log_probs: log_probs.max(1, keepdims=True) - log_probs,
    "APS": aps,
}
"""Scores of a class, (N, C) from (N, C); larger is less likely. featcache uses LAC."""


def learn(objective: str, x: Floats, y: NDArray[np.int64], classes: int) -> Callable[[Floats], Floats]:
    """Fit a probe; return its log-probabilities."""
    kind = plugins.find("objectives", objective).objective
    data = ProbeData(torch.from_numpy(x), torch.from_numpy(y), classes, None)
    log_probs = kind(kind.Options()).fit(data, 0)
    return lambda new: log_probs(torch.from_numpy(new)).double().numpy()


def draws(path: str, rows: str, labels: int, count: int) -> Iterator[tuple[Floats, Any, Floats, Any]]:
    """Yield labelled samples, their labels, samples to predict and their labels, for each draw."""
    cache = fc.Cache.open(path)
    train = cache["train"]
    x, y = train.embeddings(), train.labels
    for seed in range(count):
        usable = np.ones(len(y), bool)
        if rows == "train":
            usable[np.random.default_rng(seed).permutation(len(y))[: len(y) // 2]] = False
        drawn = draw_labels(y, cache.classes, seed=seed, num_labels=labels, usable=usable).labelled
        if rows == "train":
            yield x[drawn], y[drawn], x[~usable], y[~usable]
        else:
            yield x[drawn], y[drawn], cache["test"].embeddings(), cache["test"].labels


def measured(
    objective: str, coverage: float, draw: tuple[Floats, Any, Floats, Any]
) -> dict[str, tuple[float, float]] | str:
    """Return coverage and mean set size by score, or why no coverage can be promised."""
    x, y, new, truth = draw
    classes = int(max(y.max(), truth.max())) + 1
    parts = folds(y, 5, 0)
    if not parts or len(np.unique(y)) < classes or len(y) < fewest(coverage):
        return "refused: a class has fewer than two labels"
    held_out = np.empty((len(y), classes))
    for held in parts:
        kept = np.setdiff1d(np.arange(len(y)), held)
        held_out[held] = learn(objective, x[kept], y[kept], classes)(x[held])
    final = learn(objective, x, y, classes)(new)
    found = {}
    t = fit_temperature(held_out, y)
    for name, score in SCORES.items():
        # APS reads probabilities as such, so it gets calibrated ones.
        before, after = (scaled(p, t) if name == "APS" else p for p in (held_out, final))
        limit = threshold(score(before)[np.arange(len(y)), y], coverage)
        within = score(after) <= limit
        within[np.arange(len(within)), final.argmax(1)] = True
        found[name] = (float(within[np.arange(len(truth)), truth].mean()), float(within.sum(1).mean()))
    return found


def half_width(values: list[float]) -> float:
    """Return half of the 95 % interval (Student's t) of a mean over draws."""
    from scipy.stats import t

    return float(t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))


def row(name: str, found: list[tuple[float, float]]) -> str:
    covered, sizes = [pair[0] for pair in found], [pair[1] for pair in found]
    return (
        f"| {name} | {100 * np.mean(covered):.1f} ± {100 * half_width(covered):.1f} | "
        f"{100 * np.min(covered):.1f} | {np.mean(sizes):.2f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("caches", nargs="+")
    parser.add_argument("--rows", choices=["train", "test"], default="train")
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--coverage", type=float, default=0.9)
    parser.add_argument("--objective", default="linear")
    parser.add_argument("--runs", nargs="+", default=[])
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| data, labels, score | coverage | lowest draw | mean set size |\n| --- | --- | --- | --- |")
    if options.runs:
        test = fc.Cache.open(options.caches[0])["test"]
        said = [fc.Run.open(run).predict(test, coverage=options.coverage) for run in options.runs]
        pairs = []
        for one in said:
            assert one.sets is not None
            assert one.within is not None
            held = [truth in (of or ()) for truth, of in zip(one.truth, one.sets, strict=True)]
            pairs.append((float(np.mean(held)), float(one.within.sum(1).mean())))
        print(row(f"{len(said)} runs", pairs))
        return
    for path in options.caches:
        for labels in LABELS:
            title = f"{fc.Cache.open(path).path.stem} {labels}"
            given = draws(path, options.rows, labels, options.draws)
            found = [measured(options.objective, options.coverage, draw) for draw in given]
            whole = [one for one in found if not isinstance(one, str)]
            for name in SCORES if len(whole) > 1 else ():
                refused = len(found) - len(whole)
                note = f" ({refused} draws refused)" if refused else ""
                print(row(f"{title} {name}{note}", [one[name] for one in whole]), flush=True)
            if len(whole) < 2:
                print(f"| {title} | refused: classes with fewer than two labels | | |", flush=True)


if __name__ == "__main__":
    main()
