"""`featcache predict`: predict the class of every sample of a cache with a finished run."""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featcache.cache.reader import WRITTEN, CacheReader
from featcache.devices import resolve
from featcache.errors import CacheError, ConfigError, option
from featcache.files import explained, write_atomic
from featcache.loading.store import FeatureStore
from featcache.location import Location
from featcache.runs.run import RunFolder
from featcache.training.learner import Learner
from featcache.training.learners import load_learner
from featcache.training.prediction import open_store, predict_rows, require_fitting

COLUMNS = ("split", "id", "prediction", "confidence", "label")
Line = Sequence[str | None]
Place = str | os.PathLike[str] | Location


@dataclass(frozen=True)
class PredictSummary:
    """Counts of predictions for one split."""

    rows: int
    failed: int
    """Rows that failed in extraction; they have no prediction."""
    judged: int
    """Rows with a prediction and a label."""
    right: int
    """Judged rows whose predicted class is their label."""
    unknown: Mapping[str, int]
    """Judged rows of classes that the run does not know, by class name; they count as wrong."""

    @property
    def accuracy(self) -> float | None:
        """The share of judged rows that are right; None if there are none."""
        return self.right / self.judged if self.judged else None


def predict(
    run: Place, cache: Place, out: Place, *, split: str | None = None, device: str = "auto"
) -> dict[str, PredictSummary]:
    """Predict the rows of a split (None: of all splits), write a table to `out`, return a summary by split.

    The table is CSV with the columns `split`, `id`, `prediction`, `confidence` (probability of the predicted
    class) and `label` (empty without a label). It has a line for each row of the cache, in the same order. A
    row that failed in extraction has an empty prediction. The cache that the run was trained on is not
    needed.

    Raises a FeatcacheError before anything is written. The run must be finished, and the cache complete, with
    the same features as that of the run. `out` must not exist or be an earlier table.
    """
    finished, table = RunFolder.finished(Location.of(run).path), Location.of(out).path
    _refuse_foreign(table)
    opened = CacheReader.open(Location.of(cache).path)
    splits = [opened.split(name) for name in _names(opened, split)]
    for part in splits:
        part.check()
    learner = load_learner(finished, resolve(device))
    require_fitting(learner, opened)
    classes = learner.origin.class_names
    lines: list[Line] = [COLUMNS]
    summaries: dict[str, PredictSummary] = {}
    for part in splits:
        store = open_store(learner, opened, part.name)
        choice, confidence = _choose(learner, store, np.flatnonzero(part.status[:, 0] == WRITTEN))
        predicted, labels = _named(choice, classes), _named(part.labels, opened.class_names)
        shares = [None if name is None else f"{p:.6f}" for name, p in zip(predicted, confidence, strict=True)]
        lines += zip(repeat(part.name), part.ids, predicted, shares, labels)
        summaries[part.name] = _summary(predicted, labels, set(classes))
    _write(table, lines)
    return summaries


def describe(name: str, summary: PredictSummary) -> str:
    """Describe a split in one line.

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


def _names(cache: CacheReader, split: str | None) -> Sequence[str]:
    names = cache.split_names if split is None else (split,)
    if not names:
        raise CacheError(
            f"the cache {cache.path} has no split yet", hint="rerun its `featcache extract` command"
        )
    return names


def _choose(
    learner: Learner, store: FeatureStore, readable: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the most probable class of each row (-1 if it is not `readable`), and its probability."""
    choice, confidence = np.full(store.rows, -1), np.zeros(store.rows)
    for rows, outputs in predict_rows(learner, store, readable):
        given = outputs.log_probs.double().numpy()
        choice[rows], confidence[rows] = given.argmax(1), np.exp(given.max(1))
    return choice, confidence


def _named(classes: NDArray[np.int64], names: Sequence[str]) -> list[str | None]:
    return [None if index < 0 else names[index] for index in classes.tolist()]


def _summary(
    predicted: Sequence[str | None], labels: Sequence[str | None], known: Container[str]
) -> PredictSummary:
    """Count the right predictions; classes are compared by name, as caches may number them differently."""
    pairs = [(a, b) for a, b in zip(predicted, labels, strict=True) if a is not None and b is not None]
    return PredictSummary(
        rows=len(predicted),
        failed=predicted.count(None),
        judged=len(pairs),
        right=sum(a == b for a, b in pairs),
        unknown=Counter(label for _, label in pairs if label not in known),
    )


def _refuse_foreign(out: Path) -> None:
    """Raise ConfigError if `out` exists and is not an earlier table."""
    with explained(out):
        if not out.exists():
            return
        head = _first_line(out) if out.is_file() else None
    if head not in ("", ",".join(COLUMNS)):
        raise ConfigError(
            f"{out} exists and is not a table of predictions; it is left as it is",
            got="a folder" if head is None else f"a file that begins with {head[:60]!r}",
            expected="an earlier table, or nothing",
            hint=f"choose another {option('out')}, such as predictions.csv",
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
