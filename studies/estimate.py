"""How often does the interval of `training/estimate.py` hold? `python -m studies.estimate measure|table`.

`measure` draws labels from the training split of each cache, makes the folds of an estimate, and compares
the interval with the accuracy of the model of all labels. The *rest* are the other training rows: they are
what the rule was chosen on. The *test* rows were only reported. Labels are drawn at `random`, or `even`: as
many of each class. One line of JSON is one repetition, so an interrupted study goes on where it stopped.

    python -m studies.estimate measure digits.zarr trec6.zarr --out estimates.jsonl
    python -m studies.estimate table estimates.jsonl
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from featcache.loading.splits import LabelSplit
from featcache.loading.store import FeatureStore
from featcache.objectives.base import Probe, ProbeData
from featcache.progress import silent
from featcache.runs.run import RunFolder
from featcache.training.cross_validation import cross_validate, estimate_folds, hold_out
from featcache.training.data import DataPool, Draw, TrainingData
from featcache.training.estimate import WIDEST, binomial_interval, cross_validated_interval
from featcache.training.held_out import HeldOut
from featcache.training.outputs import pooled
from featcache.training.recipe import objective_class
from featcache.training.request import TrainRequest
from featcache.training.session import Training, train_fold
from studies._command import main

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
DESIGNS = ("random", "even")
Result = tuple[HeldOut | None, Floats, Floats]
"""Held-out predictions, and log-probabilities of all training rows and of all test rows."""


def drawn(labels: Ints, number: int, design: str, rng: np.random.Generator) -> Ints:
    """Draw `number` sorted rows: at random, or as evenly over the classes as it goes."""
    if design == "random":
        return np.sort(rng.choice(np.flatnonzero(labels >= 0), number, replace=False))
    classes = rng.permutation(np.unique(labels[labels >= 0]))
    wanted = number // len(classes) + (np.arange(len(classes)) < number % len(classes))
    pools = [rng.permutation(np.flatnonzero(labels == c)) for c in classes]
    return np.sort(np.concatenate([pool[:n] for pool, n in zip(pools, wanted, strict=True)]))


def with_probe(training: Training, folds: int) -> Callable[[Draw, int], Result]:
    """Return the result of a draw for a probe, from embeddings that are read once."""
    data, classes = training.data, len(training.data.cache.class_names)
    kind = objective_class(training.request.objective)
    assert issubclass(kind, Probe)
    probe = kind(kind.Options.parse(training.options.objective))
    train, test = (pooled(store, rows) for store, rows in _parts(data))

    def fit(rows: Ints, label: Ints) -> Callable[[torch.Tensor], Floats]:
        made = probe.fit(ProbeData(train[rows], torch.from_numpy(label), classes, None), 0)
        return lambda asked: made(asked).double().numpy()

    def result(draw: Draw, seed: int) -> Result:
        rows, label = draw.known.rows, draw.known.label

        def predict(number: int, held: Ints) -> Floats:
            return fit(np.delete(rows, held), np.delete(label, held))(train[rows[held]])

        found = hold_out(rows, label, classes, estimate_folds(label, folds, seed, cheap=not folds), predict)
        final = fit(rows, label)
        return found, final(train), final(test)

    return result


def with_training(training: Training, folds: int) -> Callable[[Draw, int], Result]:
    """Return the result of a draw for an objective that is trained in steps."""
    data = training.data

    def result(draw: Draw, seed: int) -> Result:
        with tempfile.TemporaryDirectory() as folder:
            run = RunFolder(Path(folder) / "run")
            learner = training.create(draw)
            training.begin(learner, draw, run)
            training.learn(learner, draw, run)
            repeats = estimate_folds(draw.known.label, folds, seed, cheap=False)
            with silent("folds", 0) as bar:
                found = cross_validate(draw, repeats, lambda n, part: train_fold(training, n, part, run, bar))
        train, test = (learner.predict(*part).log_probs.double().numpy() for part in _parts(data))
        return found, train, test

    return result


def _parts(data: TrainingData) -> list[tuple[FeatureStore, Ints]]:
    """Return the store and all rows of both splits."""
    assert data.test is not None
    assert data.test_store is not None
    both = ((data.train_store, data.train), (data.test_store, data.test))
    return [(store, np.arange(len(split.labels))) for store, split in both]


def measure(args: argparse.Namespace) -> None:
    """Append one line for each repetition that the file does not hold yet."""
    args.out.touch()
    keys = ("cache", "objective", "design", "labels", "folds", "seed")
    done = {tuple(line[key] for key in keys) for line in map(json.loads, args.out.read_text().splitlines())}
    pool = DataPool(torch.device("cpu"))
    options = json.loads(args.options)
    for path in args.caches:
        training = Training.open(TrainRequest(path, args.objective, 0, 1, None, options), pool)
        whole, labels = training.draw(), training.data.train.labels
        probe = issubclass(objective_class(args.objective), Probe)
        result = (with_probe if probe else with_training)(training, args.folds)
        for design, number, seed in np.ndindex(len(args.designs), len(args.labels), args.repetitions):
            key = (path.stem, args.objective, args.designs[design], args.labels[number], args.folds, seed)
            rng = np.random.default_rng([seed, key[3], DESIGNS.index(key[2])])
            rows = drawn(labels, key[3], key[2], rng)
            if key in done or len(np.unique(labels[rows])) < 2:
                continue
            draw = replace(whole, split=LabelSplit(rows, whole.split.unlabelled), seed=seed)
            line = dict(zip(keys, key, strict=True)) | compared(result(draw, seed), draw)
            with args.out.open("a") as file:
                file.write(json.dumps(line) + "\n")


def compared(result: Result, draw: Draw) -> dict[str, Any]:
    """Return the accuracies of the final model, and what the interval is made from."""
    found, train, test = result
    rows, label = draw.known.rows, draw.known.label
    line: dict[str, Any] = {}
    for name, log_probs, truth in (
        ("rest", train, draw.train_labels),
        ("test", test, draw.data.test.labels if draw.data.test else np.zeros(0, np.int64)),
    ):
        asked = np.setdiff1d(np.flatnonzero(truth >= 0), rows if name == "rest" else [])
        right = log_probs[asked].argmax(1) == truth[asked]
        line[name] = float(right.mean())
        line[f"{name}_seen"] = float(right[np.isin(truth[asked], label)].mean())
    line["label"] = label.tolist()
    if found is not None:
        line |= {"correct": found.correct.tolist(), "kept": found.kept.tolist()}
    return line


def interval(line: dict[str, Any]) -> tuple[float, float, float]:
    """Return the estimate and its interval."""
    if "correct" not in line:
        return 0.5, 0.0, 1.0
    return cross_validated_interval(_held_out(line), random=line["design"] == "random")


def plain(line: dict[str, Any]) -> tuple[float, float, float]:
    """Return what most would do: the share of right held-out labels as if they were independent."""
    known = _held_out(line).known if "correct" in line else np.zeros(0, bool)
    if not known.any():
        return 0.5, 0.0, 1.0
    right = float(np.mean(line["correct"], axis=0)[known].sum())
    return (right / known.sum(), *binomial_interval(right, int(known.sum())))


def _held_out(line: dict[str, Any]) -> HeldOut:
    label = np.array(line["label"])
    correct, kept = np.array(line["correct"], np.int8), np.array(line["kept"])
    return HeldOut(label, label, np.zeros((len(label), 0)), correct, kept, line["folds"])


HEAD = (
    "cache | labels | reps | accuracy | estimate | error | holds: rest | seen | test | width "
    "| no figure | plain holds"
)


def table(args: argparse.Namespace) -> None:
    """Print one Markdown table for each objective and design."""
    cells = defaultdict(list)
    for line in map(json.loads, args.file.read_text().splitlines()):
        cells[line["objective"], line["design"], line["cache"], line["labels"], line["folds"]].append(line)
    last: Any = None
    tables = sorted(cells, key=lambda cell: (cell[0], cell[4], -DESIGNS.index(cell[1])), reverse=True)
    for objective, design, cache, labels, folds in tables:
        lines = cells[objective, design, cache, labels, folds]
        if last != (last := (objective, design, folds)):
            print(f"\n`{objective}`, labels drawn {design}, folds {folds or 'as a training'}\n")
            print(f"| {HEAD} |\n" + "| --- " * 12 + "|")
        print(f"| {cache} | {labels} | {len(lines)} | " + " | ".join(_cells(lines)) + " |")


def _cells(lines: list[dict[str, Any]]) -> list[str]:
    found, naive = (np.array([rule(line) for line in lines]) for rule in (interval, plain))
    truth = {name: np.array([line[name] for line in lines]) for name in ("rest", "rest_seen", "test")}
    width = found[:, 2] - found[:, 1]
    error = found[:, 0] - truth["rest"]
    return [
        f"{truth['rest'].mean():.3f}",
        f"{found[:, 0].mean():.3f}",
        f"{np.sqrt((error**2).mean()):.3f}",
        *(_share((found[:, 1] <= part) & (part <= found[:, 2])) for part in truth.values()),
        f"{width.mean():.2f}",
        f"{(width > WIDEST).mean():.2f}",
        _share((naive[:, 1] <= truth["rest"]) & (truth["rest"] <= naive[:, 2])),
    ]


def _share(holds: NDArray[np.bool_]) -> str:
    low, high = binomial_interval(int(holds.sum()), len(holds))
    return f"{100 * holds.mean():.0f} ({100 * low:.0f}-{100 * high:.0f})"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `measure` takes."""
    parser.add_argument("--objective", default="linear")
    parser.add_argument("--options", default="{}", help="the options of the training, as JSON")
    parser.add_argument("--folds", type=int, default=0, help="in one repeat; 0: as a training does")
    parser.add_argument("--designs", nargs="+", default=DESIGNS, choices=DESIGNS)
    parser.add_argument("--labels", type=int, nargs="+", default=[10, 20, 50, 200])
    parser.add_argument("--repetitions", type=int, default=100)


if __name__ == "__main__":
    main(__doc__, arguments, measure, table)
