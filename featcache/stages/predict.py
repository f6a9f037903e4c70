"""`featcache predict`: a finished run says of every sample of a cache which class it takes it for."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from featcache.cache.identity import require_same
from featcache.cache.reader import WRITTEN, CacheReader
from featcache.cache.spec import FeatureSpec
from featcache.devices import resolve
from featcache.errors import CacheError, ConfigError
from featcache.files import explained, write_atomic
from featcache.loading.store import FeatureStore
from featcache.objectives.base import Probe, ProbeData, Task
from featcache.runs.run import Run
from featcache.stages.train import objective_class
from featcache.training import predictor
from featcache.training.learner import Origin, build, load_task
from featcache.training.options import TrainOptions
from featcache.training.state import TrainState

COLUMNS = ("split", "id", "prediction", "confidence", "label")
Line = Sequence[str | None]
ROWS = 32 * predictor.BATCH
"""Rows at a time: only theirs are the probabilities of all classes in memory."""


@dataclass(frozen=True)
class PredictSummary:
    """What was predicted for one split, and how often it is right where that is known."""

    rows: int
    failed: int
    """Rows that failed in extraction: in the table, without a prediction."""
    judged: int
    """Rows with a prediction and a label."""
    right: int
    """Judged rows whose label has the name of the predicted class."""
    unknown: Mapping[str, int]
    """Judged rows of a class that the run does not know (and so wrong), by its name."""

    @property
    def accuracy(self) -> float | None:
        """`right` of `judged`; None where nothing can be judged."""
        return self.right / self.judged if self.judged else None


def predict(
    run: Path, cache: Path, out: Path, *, split: str | None = None, device: str = "auto"
) -> dict[str, PredictSummary]:
    """Predict the rows of a split (None: of all splits) and write a table to `out`; a summary by split.

    The table is CSV with the columns `split`, `id`, `prediction`, `confidence` (probability of the predicted
    class) and `label` (empty where there is none). Its rows are all those of the cache, in that order; one
    that failed in extraction has an empty prediction. Of the run, nothing but its own directory is needed.
    Raises a FeatcacheError, before anything is written, where the run is not finished, the cache is not whole
    or holds other features than the run was trained on, or `out` is anything but an earlier table.
    """
    finished = Run.finished(run)
    _refuse_foreign(out)
    opened = CacheReader.open(cache)
    splits = [opened.split(name) for name in _names(opened, split)]
    for part in splits:
        part.check()
    log_probs, origin = _trained(finished, opened, resolve(device))
    lines: list[Line] = [COLUMNS]
    summaries: dict[str, PredictSummary] = {}
    layer = opened.features(origin.features.layer).layer
    for part in splits:
        store = FeatureStore.open(opened, part.name, layer)
        choice, confidence = _choose(log_probs, store, np.flatnonzero(part.status[:, 0] == WRITTEN))
        predicted, labels = _named(choice, origin.class_names), _named(part.labels, opened.class_names)
        shares = [None if name is None else f"{p:.6f}" for name, p in zip(predicted, confidence, strict=True)]
        lines += zip(repeat(part.name), part.ids, predicted, shares, labels)
        summaries[part.name] = _summary(predicted, labels, set(origin.class_names))
    _write(out, lines)
    return summaries


def describe(name: str, summary: PredictSummary) -> str:
    """One line for a person.

    >>> print(describe("test", PredictSummary(rows=9, failed=0, judged=4, right=2, unknown={"emu": 1})))
    test: 9 rows, accuracy 50.00 % of 4 labelled (1 wrong, of classes that the run does not know: emu)
    """
    parts = [f"{name}: {summary.rows} rows"]
    if summary.failed:
        parts.append(f"{summary.failed} failed in extraction")
    if summary.accuracy is not None:
        parts.append(f"accuracy {100 * summary.accuracy:.2f} % of {summary.judged} labelled")
    line = ", ".join(parts)
    if not summary.unknown:
        return line
    count, names = sum(summary.unknown.values()), ", ".join(summary.unknown)
    return f"{line} ({count} wrong, of classes that the run does not know: {names})"


def _trained(run: Run, cache: CacheReader, device: torch.device) -> tuple[predictor.Predict, Origin]:
    """The model as it was tested, from what the run's directory holds; CacheMismatch unless it fits."""
    config = run.config()
    kind = objective_class(config["objective"])
    task, origin = load_task(run.task, ProbeData if issubclass(kind, Probe) else Task)
    _require_fitting(cache, origin.features, tokens=not issubclass(kind, Probe))
    options = TrainOptions.parse(config["options"], f"the options of {run.path}")
    learner = build(kind, options, task, origin.features, seed=config["seed"], device=device)
    if not isinstance(learner, TrainState):
        return learner, origin
    learner.load(run.checkpoint)
    return predictor.of_state(learner, device), origin


def _require_fitting(cache: CacheReader, wanted: FeatureSpec, *, tokens: bool) -> None:
    model = wanted.encoder.name
    held = cache.features(wanted.layer)
    if not tokens:  # a probe reads the pooled embedding alone
        held = wanted.model_copy(update={"encoder": held.encoder, "pooled": held.pooled})
    require_same(
        cache.path,
        held,
        wanted,
        by="in the cache of the run",
        hint=f"extract with --model {model} --tokens {wanted.tokens} --layer {wanted.layer}",
    )


def _names(cache: CacheReader, split: str | None) -> Sequence[str]:
    names = cache.split_names if split is None else (split,)
    if not names:
        raise CacheError(
            f"the cache {cache.path} has no split yet", hint="rerun its `featcache extract` command"
        )
    return names


def _choose(
    log_probs: predictor.Predict, store: FeatureStore, readable: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """By row the likeliest class (-1 where it is not `readable`), and its probability."""
    choice, confidence = np.full(store.rows, -1), np.zeros(store.rows)
    for start in range(0, len(readable), ROWS):
        rows = readable[start : start + ROWS]
        given = log_probs(store, rows).double().numpy()
        choice[rows], confidence[rows] = given.argmax(1), np.exp(given.max(1))
    return choice, confidence


def _named(classes: NDArray[np.int64], names: Sequence[str]) -> list[str | None]:
    return [None if index < 0 else names[index] for index in classes.tolist()]


def _summary(
    predicted: Sequence[str | None], labels: Sequence[str | None], known: Container[str]
) -> PredictSummary:
    """Classes are compared by name: two caches may number them differently."""
    pairs = [(a, b) for a, b in zip(predicted, labels, strict=True) if a is not None and b is not None]
    return PredictSummary(
        rows=len(predicted),
        failed=predicted.count(None),
        judged=len(pairs),
        right=sum(a == b for a, b in pairs),
        unknown=Counter(label for _, label in pairs if label not in known),
    )


def _refuse_foreign(out: Path) -> None:
    """Raise ConfigError where writing to `out` would replace anything but an earlier table."""
    with explained(out):
        if not out.exists():
            return
        head = _first_line(out) if out.is_file() else None
    if head not in ("", ",".join(COLUMNS)):
        raise ConfigError(
            f"{out} exists and is not a table of predictions; it is left as it is",
            got="a folder" if head is None else f"a file that begins with {head[:60]!r}",
            expected="an earlier table, or nothing",
            hint="choose another --out, such as predictions.csv",
        )


def _first_line(path: Path) -> str:
    with path.open("rb") as file:
        return file.readline(1000).decode(errors="replace").strip()


def _write(out: Path, lines: Sequence[Line]) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(lines)
    with explained(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(out, text.getvalue().encode())
