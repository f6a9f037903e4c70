"""`featcache predict`: predict the class of every sample of a cache with a finished run."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from shlex import quote

import numpy as np

from featcache.api.cache import Cache, Split
from featcache.api.predictions import UNSURE_BELOW, columns
from featcache.api.run import Run, parts
from featcache.cache.reader import WRITTEN
from featcache.errors import CacheError, ConfigError, option
from featcache.filing.sorter import Sorted, Sorter
from featcache.filing.table import Table
from featcache.location import Location
from featcache.training.fitting import command_for
from featcache.training.prediction import Predictor

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
    learned: int = 0
    """Judged rows whose label the run has learned from; their accuracy says little."""
    learned_right: int = 0
    """Those of them that are right."""
    unsure: int = 0
    """Rows with a prediction that a person should look at."""
    set_size: float | None = None
    """The mean number of classes in a set; None if no coverage was asked for."""
    promised: bool = True
    """False if the coverage is no promise, as the labels were not drawn at random."""

    @property
    def accuracy(self) -> float | None:
        """The share of judged rows that are right; None if there are none."""
        return self.right / self.judged if self.judged else None


def predict(
    run: Place,
    cache: Place,
    out: Place,
    *,
    split: str | None = None,
    probabilities: bool = False,
    coverage: float | None = None,
    unsure_below: float = UNSURE_BELOW,
    sort: str = "cache",
    in_place_links: Place | None = None,
    copy_to: Place | None = None,
    unsure_apart: bool = False,
    source: str | os.PathLike[str] | None = None,
    device: str = "auto",
    trust: bool = False,
) -> dict[str, PredictSummary]:
    """Predict the rows of a split (None: of all splits), write a table to `out`, return a summary by split.

    The ending of `out` is the format: .csv, .parquet or .jsonl. The table has the columns `split`, `id`,
    `prediction`, `confidence` (calibrated probability of the predicted class), `label` (empty without a
    label), `second`, `second_confidence`, `unsure` and `novelty`. With a `coverage` such as 0.9 it has `set`,
    the classes of which one is true so often. `probabilities` adds a column `p:CLASS` for each class.

    It has a line for each row of the cache, in the same order; with `sort="unsure"`, the least sure come
    first. A row that failed in extraction has an empty prediction. The cache that the run was trained on is
    not needed.

    `in_place_links` or `copy_to` names a folder that gets a link or a copy of each file, in a folder for each
    class. With `unsure_apart`, unsure ones are below its folder `unsure`. `source` is where the files are, if
    not where they were at the extraction. Files are never moved or deleted. The code of an own objective,
    which RUN holds a copy of, is not run without `trust`.

    Raises a FeatcacheError before anything is written. The run must be finished, and the cache complete, with
    the same features as that of the run. `out` must not exist or be an earlier table.
    """
    finished, table = Run.open(run, trust=trust), Table.at(Location.of(out).path)
    if sort not in ("cache", "unsure"):
        raise ConfigError(f"{option('sort')} is not an order", got=repr(sort), expected="cache or unsure")
    predictor = finished.predictor(device, coverage)
    opened = _opened(Location.of(cache), Location.of(run), predictor)
    splits = _whole(opened, split)
    predictor.require_fitting(opened)
    sorter = Sorter.of(
        None if in_place_links is None else Location.of(in_place_links).path,
        None if copy_to is None else Location.of(copy_to).path,
        unsure_apart=unsure_apart,
        provenance=opened.provenance,
        source=source,
    )
    if sorter is not None:
        _find_originals(sorter, splits)
    summaries = {part.name: _predict(predictor, part, unsure_below, table, probabilities) for part in splits}
    folder = None if sorter is None else sorter.plan(Sorted(**row) for row in table.records(*Sorted._fields))
    table.write(least_sure_first=sort == "unsure")
    if folder is not None:
        folder.fill()
    return summaries


def _find_originals(sorter: Sorter, splits: Sequence[Split]) -> None:
    """Tell the sorter which samples there are; one that failed in extraction has no file to sort."""
    for part in splits:
        there = np.flatnonzero(part.status[:, 0] == WRITTEN)
        sorter.originals(part.name, [part.ids[row] for row in there])


def _whole(cache: Cache, split: str | None) -> list[Split]:
    """Return the splits to predict; raise CacheError unless they are complete."""
    splits = [cache[name] for name in _names(cache, split)]
    for part in splits:
        part.check()
    return splits


def describe(name: str, summary: PredictSummary) -> str:
    """Describe a split in one line.

    >>> print(describe("test", PredictSummary(rows=9, failed=0, judged=4, right=2, unknown={"emu": 1})))
    test: 9 rows, accuracy 50.00 % of 4 labelled (1 wrong, of classes that the run does not know: emu)
    >>> print(describe("train", PredictSummary(56, 0, 30, 29, {}, learned=28, learned_right=28, unsure=3)))
    train: 56 rows, 3 unsure, accuracy 50.00 % of 2 labelled, and 100.00 % of 28 that it learned from
    """
    parts = [f"{name}: {summary.rows} rows"]
    if summary.failed:
        parts.append(f"{summary.failed} failed in extraction")
    if summary.unsure:
        parts.append(f"{summary.unsure} unsure")
    others = summary.judged - summary.learned
    if others:
        right = summary.right - summary.learned_right
        parts.append(f"accuracy {100 * right / others:.2f} % of {others} labelled")
    if summary.learned:
        known = (
            f"{100 * summary.learned_right / summary.learned:.2f} % of {summary.learned} that it learned from"
        )
        parts.append(f"and {known}" if others else f"accuracy {known}")
    if summary.unknown:
        count, names = sum(summary.unknown.values()), ", ".join(summary.unknown)
        parts[-1] += f" ({count} wrong, of classes that the run does not know: {names})"
    if summary.set_size is not None:
        chosen = "" if summary.promised else " (a hint: the labels were not drawn at random)"
        parts.append(f"{summary.set_size:.2f} classes in a set{chosen}")
    return ", ".join(parts)


def _opened(place: Location, run: Location, predictor: Predictor) -> Cache:
    """Open a cache; if the place is a source instead, say how to make a cache of it."""
    try:
        return Cache.open(place.path)
    except CacheError:
        # A folder with zarr.json is a damaged cache, or one of another version.
        if not place.path.exists() or (place.path / "zarr.json").exists():
            raise
        made = f"{place.path.name.partition('.')[0] or 'new'}.zarr"
        first = command_for(predictor.learner.origin.features, str(place), made)
        again = f"featcache predict {quote(str(run))} {quote(made)} --out predictions.csv"
        raise CacheError(
            f"no featcache cache at {place}",
            got="a folder of something else" if place.path.is_dir() else "a file",
            expected="a cache, because a run predicts the samples of a cache",
            hint="\n            ".join(
                ["make one with the model of the run, and predict that:", first, again]
            ),
        ) from None


def _names(cache: Cache, split: str | None) -> Sequence[str]:
    names = cache.split_names if split is None else (split,)
    if not names:
        raise CacheError(
            f"the cache {cache.path} has no split yet", hint="rerun its `featcache extract` command"
        )
    return names


def _predict(
    predictor: Predictor, split: Split, unsure_below: float, table: Table, probabilities: bool
) -> PredictSummary:
    """Predict a split into a table, some thousand rows at a time; return its summary."""
    counts: Counter[str] = Counter()
    unknown: Counter[str] = Counter()
    sets = 0
    for part in parts(predictor, split, unsure_below=unsure_below):
        table.add(columns(part, probabilities=probabilities))
        judged, right = part.judged, part.label == part.truth
        counts.update(
            rows=len(part),
            failed=int((~part.predicted).sum()),
            judged=int(judged.sum()),
            right=int((judged & right).sum()),
            learned=int((judged & part.learned).sum()),
            learned_right=int((judged & part.learned & right).sum()),
            unsure=int(part.unsure.sum()),
        )
        sets += 0 if part.within is None else int(part.within.sum())
        unknown.update(str(name) for name in part.truth[judged] if name not in part.classes)
    size = None
    if predictor.threshold is not None:
        size = sets / max(counts["rows"] - counts["failed"], 1)
    return PredictSummary(**counts, unknown=dict(unknown), set_size=size, promised=predictor.promised)
