"""Compare scores for "none of these": how well do they tell known classes from unknown ones, and from noise?

    python studies/novelty.py CACHE ... [--rows train|test] [--draws 5]
    python studies/novelty.py digits.zarr --images open_clip:glyph-clip

For every draw, three classes are unknown (30 of 100 or more), and a logistic regression learns from 2 or 10
labels of each other class. The figure of a score is its AUROC: the probability that a sample of an unknown
class gets a larger score than one of a known class. `seen`: unlabelled samples of the unknown classes are
among the training samples. `new`: they are not. With `--rows train` (to choose a score), one half of the
training rows is for training and the other for evaluation; no test row is read. With `--rows test` (to report
it), all training rows are for training.

With `--images MODEL`, no class is unknown. The table has the novelty of images that are none: the share of
training samples that are less unusual.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import featcache as fc
from featcache.objectives.base import ProbeData
from featcache.objectives.linear import Linear
from featcache.training.metrics import auroc
from featcache.training.novelty import ROWS, Reference, reference_rows

Floats = NDArray[Any]
PER_CLASS = (2, 10)


def scores(pool: Floats, label: NDArray[np.int64], new: Floats) -> dict[str, Floats]:
    """Score `new` samples, (N, P), by each method; larger is more unlike the known classes.

    `pool` are the training samples, (M, P), and `label` their labels, -1 for none.
    """
    reference, labelled, label = Reference.like(pool, label), pool[label >= 0], label[label >= 0]
    probabilities = fitted(labelled, label)
    ranked = {
        "confidence": lambda x: 1 - probabilities(x).max(1),
        "nearest labelled": lambda x: 1 - (unit(x) @ unit(labelled).T).max(1),
        "nearest class mean": lambda x: 1 - (unit(x) @ means(unit(labelled), label).T).max(1),
        "density (5th of all)": lambda x: -np.partition(unit(x) @ unit(pool).T, -5, axis=1)[:, -5],
        "Mahalanobis": mahalanobis(pool, probabilities(pool).argmax(1)),
    }
    found = {name: score(new) for name, score in ranked.items()}
    found["novelty (featcache)"] = reference.novelty(new)
    below = {name: np.searchsorted(np.sort(score(pool)), found[name]) for name, score in ranked.items()}
    for a, b in (
        ("confidence", "nearest class mean"),
        ("confidence", "density (5th of all)"),
        ("nearest labelled", "nearest class mean"),
        ("nearest class mean", "density (5th of all)"),
    ):
        found[f"{a} + {b}"] = below[a] + below[b]
    return found


def fitted(labelled: Floats, label: NDArray[np.int64]) -> Callable[[Floats], Floats]:
    """Fit the logistic regression of `--objective linear`; return its probabilities."""
    count = int(label.max()) + 1
    data = ProbeData(torch.from_numpy(labelled), torch.from_numpy(label), count, None)
    log_probs = Linear(Linear.Options()).fit(data, 0)
    return lambda x: log_probs(torch.from_numpy(x)).double().exp().numpy()


def mahalanobis(pool: Floats, predicted: NDArray[np.int64]) -> Callable[[Floats], Floats]:
    """Fit the means of the predicted classes and one shrunk covariance (arXiv 1807.03888, without labels)."""
    from sklearn.covariance import ledoit_wolf

    centres = np.stack([pool[predicted == c].mean(0) for c in np.unique(predicted)])
    place = np.searchsorted(np.unique(predicted), predicted)
    root = np.linalg.cholesky(np.linalg.inv(ledoit_wolf(pool - centres[place])[0].astype(np.float64)))
    whitened = centres @ root

    def score(x: Floats) -> Floats:
        y = x @ root
        distances = (y**2).sum(1)[:, None] - 2 * y @ whitened.T + (whitened**2).sum(1)
        return np.asarray(distances.min(1))

    return score


def unit(x: Floats) -> Floats:
    return np.asarray(x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12))


def means(x: Floats, label: NDArray[np.int64]) -> Floats:
    return unit(np.stack([x[label == c].mean(0) for c in np.unique(label)]))


def draws(cache: fc.Cache, rows: str, count: int) -> Iterator[tuple[Any, ...]]:
    """Yield for each draw: pool, its labels, evaluation samples, their labels; -1 is an unknown class."""
    train = cache["train"]
    for seed in range(count):
        rng = np.random.default_rng(seed)
        order = rng.permutation(train.rows)
        classes = len(cache.classes)
        unknown = rng.permutation(classes)[: 3 if classes < 100 else 30]
        number = np.full(classes + 1, -1)
        known = np.setdiff1d(np.arange(classes), unknown)
        number[known] = np.arange(len(known))
        x, y = train.embeddings(), number[train.labels]
        if rows == "train":
            half = train.rows // 2
            yield x[order[:half]], y[order[:half]], x[order[half:]], y[order[half:]]
        else:
            test = cache["test"]
            yield x[order], y[order], test.embeddings(), number[test.labels]


def half_width(values: Floats) -> float:
    """Return half of the 95 % interval (Student's t) of a mean over draws."""
    from scipy.stats import t

    return float(t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))


def compare(path: str, rows: str, count: int) -> dict[tuple[str, int, str], dict[str, list[float]]]:
    """Return the AUROC of every method and draw, by (cache, labels per class, setting)."""
    cache = fc.Cache.open(path)
    found: dict[tuple[str, int, str], dict[str, list[float]]] = {}
    for pool, y, new, truth in draws(cache, rows, count):
        for each in PER_CLASS:
            labelled = np.concatenate([np.flatnonzero(y == c)[:each] for c in range(y.max() + 1)])
            marks = np.full(len(y), -1)
            marks[labelled] = y[labelled]
            for setting in ("seen", "new"):
                others = np.setdiff1d(np.flatnonzero((y >= 0) | (setting == "seen")), labelled)
                usual = np.concatenate([labelled, others])[:ROWS]
                key = (cache.path.stem, each, setting)
                for name, score in scores(pool[usual], marks[usual], new).items():
                    value = auroc(score[truth < 0], score[truth >= 0])
                    found.setdefault(key, {}).setdefault(name, []).append(value)
    return found


def tabulate(found: dict[tuple[str, int, str], dict[str, list[float]]]) -> str:
    """Return a Markdown table: methods by mean AUROC, with the gain over confidence, draw by draw."""
    names = list(next(iter(found.values())))
    places = list(dict.fromkeys((cache, setting) for cache, _, setting in found))
    drawn = {  # a value for each draw: the mean over budgets
        name: [
            np.mean([found[cache, each, setting][name] for each in PER_CLASS], axis=0)
            for cache, setting in places
        ]
        for name in names
    }
    heads = [f"{cache} {setting}" for cache, setting in places]
    lines = [f"| score | mean | {' | '.join(heads)} |", "| --- " * (len(heads) + 2) + "|"]
    for name in sorted(names, key=lambda name: -np.mean(drawn[name])):
        cells = []
        for values, base in zip(drawn[name], drawn["confidence"], strict=True):
            gain = values - base
            plus = f" ({gain.mean():+.3f} ± {half_width(gain):.3f})" if name != "confidence" else ""
            cells.append(f"{values.mean():.3f}{plus}")
        lines.append(f"| {name} | {np.mean(drawn[name]):.3f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def images(path: str, model: str) -> str:
    """Return a Markdown table of the novelty of images that are none, for 10 labels of each class."""
    from PIL import Image

    rng = np.random.default_rng(0)
    made = {
        "white": np.full((64, 64, 3), 255),
        "black": np.zeros((64, 64, 3)),
        "grey": np.full((64, 64, 3), 128),
        "white noise": rng.integers(0, 256, (64, 64, 3)),
        "coarse noise": rng.integers(0, 256, (8, 8, 3)).repeat(8, 0).repeat(8, 1),
        "stripes": np.tile(np.array([0] * 8 + [255] * 8), 4)[:, None, None] * np.ones((64, 64, 3)),
    }
    encoder = fc.load_encoder(model)
    inputs = [encoder.transform(Image.fromarray(pixels.astype(np.uint8))) for pixels in made.values()]
    batch = {name: torch.stack([one[name] for one in inputs]) for name in inputs[0]}
    with torch.inference_mode():
        strange = encoder.encode(batch, (-1,)).pooled.float().numpy()
    train, test = (fc.Cache.open(path)[name] for name in ("train", "test"))
    x, y = train.embeddings(), train.labels
    labelled = np.sort(np.concatenate([np.flatnonzero(y == c)[:10] for c in range(y.max() + 1)]))
    rows = reference_rows(y[labelled], labelled, np.arange(len(x)), 0)
    reference = Reference.like(x[rows], np.where(np.isin(rows, labelled), y[rows], -1))
    confidence = fitted(x[labelled], y[labelled])(strange).max(1)
    lines = ["| image | confidence | novelty |", "| --- | --- | --- |"]
    for name, sure, novelty in zip(made, confidence, reference.novelty(strange), strict=True):
        lines.append(f"| {name} | {sure:.3f} | {novelty:.3f} |")
    share = (reference.novelty(test.embeddings()) >= 0.95).mean()
    return "\n".join([*lines, "", f"test samples with a novelty of 0.95 or more: {100 * share:.1f} %"])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("caches", nargs="+")
    parser.add_argument("--rows", choices=["train", "test"], default="train")
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--images", metavar="MODEL")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.images:
        print(images(options.caches[0], options.images))
        return
    found: dict[tuple[str, int, str], dict[str, list[float]]] = {}
    for path in options.caches:
        found |= compare(path, options.rows, options.draws)
    print(tabulate(found))


if __name__ == "__main__":
    main()
