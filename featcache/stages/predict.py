"""`featcache predict`: predict the class of every sample of a cache, or of raw samples with a package."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from shlex import quote
from typing import Any

from featcache.api.cache import Cache
from featcache.api.predictable import Predictable, of_cache
from featcache.api.predictions import UNSURE_BELOW, columns
from featcache.api.run import Run
from featcache.cache.reader import is_group
from featcache.config import did_you_mean
from featcache.errors import CacheError, ConfigError, option
from featcache.filing.sorter import Sorted, Sorter
from featcache.filing.table import Table
from featcache.location import Location
from featcache.packaging.model import Model
from featcache.packaging.package import is_package, run_in
from featcache.progress import Progress, bar, silent
from featcache.training.fitting import command_for
from featcache.training.prediction import Predictor

_OR_PACKAGE = "or predict raw samples with a package of the run: featcache package RUN --out PACKAGE"
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
    failures: Mapping[str, str] = field(default_factory=dict)
    """The reasons by id, for raw samples that could not be read."""
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
    data: Place,
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
    model: str | None = None,
    device: str = "auto",
    progress: bool = False,
    trust: bool = False,
) -> dict[str, PredictSummary]:
    """Predict the rows of a split (None: of all splits), write a table to `out`, return a summary by split.

    `data` is a cache. If `run` is a package, it may also be a source of raw samples, such as a folder of
    images: the frozen model of the package reads them, and no cache is written. The classes of such a source
    count as labels if the run knows one of them.

    The ending of `out` is the format: .csv, .parquet or .jsonl. The table has the columns `split`, `id`,
    `prediction`, `confidence` (calibrated probability of the predicted class), `label` (empty without a
    label), `second`, `second_confidence`, `unsure` and `novelty`. With a `coverage` such as 0.9 it has `set`,
    the classes of which one is true so often. `probabilities` adds a column `p:CLASS` for each class.

    It has a line for each sample, in the order of `data`; with `sort="unsure"`, the least sure come
    first. A row that failed in extraction has an empty prediction. The cache that the run was trained on is
    not needed.

    `in_place_links` or `copy_to` names a folder that gets a link or a copy of each file, in a folder for each
    class. With `unsure_apart`, unsure ones are below its folder `unsure`. `source` is where the files are, if
    not where they were at the extraction. `model` is where the frozen model of a package is, if not where it
    was. Files are never moved or deleted. The code of an own objective, which RUN holds a copy of, is not run
    without `trust`. `progress` shows a bar, or a line a minute.

    Raises a FeatcacheError before anything is written. The run must be finished, and the cache complete, with
    the same features as that of the run. `out` must not exist or be an earlier table.
    """
    table = Table.at(Location.of(out).path)
    if sort not in ("cache", "unsure"):
        raise ConfigError(f"{option('sort')} is not an order", got=repr(sort), expected="cache or unsure")
    opened = _opened(
        Location.of(run), Location.of(data), split, model=model, device=device, coverage=coverage, trust=trust
    )
    sorter = opened.sorter(in_place_links, copy_to, unsure_apart=unsure_apart, source=source)
    summaries = {}
    for part in opened.splits:
        with (bar if progress else silent)(part.name, part.rows) as shown:
            summaries[part.name] = _predict(opened.predictor, part, unsure_below, table, probabilities, shown)
    rows = (Sorted(**row) for row in table.records(*Sorted._fields))
    folder = None if sorter is None else sorter.plan(rows)
    table.write(least_sure_first=sort == "unsure")
    if folder is not None:
        folder.fill()
    return summaries


@dataclass(frozen=True)
class _Opened:
    """The splits to predict, and the model for them."""

    predictor: Predictor
    splits: list[Predictable]
    provenance: Mapping[str, Any]
    """Says where the files of the samples are."""

    def sorter(self, links: Place | None, copies: Place | None, **options: Any) -> Sorter | None:
        """Prepare to sort files; raises SourceError if a sample has no file."""
        sorter = Sorter.of(
            None if links is None else Location.of(links).path,
            None if copies is None else Location.of(copies).path,
            provenance=self.provenance,
            **options,
        )
        if sorter is not None:
            for part in self.splits:
                sorter.originals(part.name, part.readable)
        return sorter


def _opened(
    run: Location, data: Location, split: str | None, *, model: str | None, trust: bool, **options: Any
) -> _Opened:
    """Open a run and a cache, or a package and a source of raw samples."""
    if is_package(run.path) and not is_group(data.path):
        packaged = Model.open(run, model=model, trust=trust, **options)
        found = packaged.open_source(str(data))
        chosen = [found[name] for name in _names(found, split, data)]
        return _Opened(packaged.predictor, chosen, {"source": str(data)})
    if model is not None:
        raise ConfigError(
            f"{option('model')} is for a package and raw samples", got=f"{run} and {data}", expected="both"
        )
    predictor = Run.open(run_in(run.path), trust=trust).predictor(**options)
    cache = _cache(data, run, predictor)
    chosen = [of_cache(predictor, cache[name]) for name in _names(cache.splits, split, data)]
    predictor.require_fitting(cache)
    return _Opened(predictor, chosen, cache.provenance)


def _names(found: Collection[str], split: str | None, data: Location) -> Collection[str]:
    """Return the names of the splits to predict, sorted; raise CacheError if there are none, or not this."""
    if split is not None and split not in found:
        raise CacheError(f"no split `{split}` in {data}", hint=did_you_mean(split, found))
    if not found:
        raise CacheError(f"the cache {data} has no split yet", hint="rerun its `featcache extract` command")
    return sorted(found) if split is None else (split,)


def describe(name: str, summary: PredictSummary) -> str:
    """Describe a split in a line, and up to ten samples that could not be read.

    >>> print(describe("test", PredictSummary(rows=9, failed=0, judged=4, right=2, unknown={"emu": 1})))
    test: 9 rows, accuracy 50.00 % of 4 labelled (1 wrong, of classes that the run does not know: emu)
    >>> print(describe("train", PredictSummary(56, 0, 30, 29, {}, learned=28, learned_right=28, unsure=3)))
    train: 56 rows, 3 unsure, accuracy 50.00 % of 2 labelled, and 100.00 % of 28 that it learned from
    """
    parts = [f"{name}: {summary.rows} rows"]
    if summary.failed:
        parts.append(
            f"{summary.failed} " + ("could not be read" if summary.failures else "failed in extraction")
        )
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
    lines = [f"  not read: {name}: {reason}" for name, reason in list(summary.failures.items())[:10]]
    if len(summary.failures) > len(lines):
        lines.append(f"  and {len(summary.failures) - len(lines)} more")
    return "\n".join([", ".join(parts), *lines])


def _cache(place: Location, run: Location, predictor: Predictor) -> Cache:
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
                ["make one with the model of the run, and predict that:", first, again, _OR_PACKAGE]
            ),
        ) from None


def _predict(
    predictor: Predictor,
    split: Predictable,
    unsure_below: float,
    table: Table,
    probabilities: bool,
    shown: Progress,
) -> PredictSummary:
    """Predict a split into a table, some samples at a time; return its summary."""
    counts: Counter[str] = Counter()
    unknown: Counter[str] = Counter()
    failures: dict[str, str] = {}
    sets = 0
    for part, failed in split.parts(unsure_below):
        table.add(columns(part, probabilities=probabilities))
        failures |= failed
        shown.update(len(part))
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
    return PredictSummary(
        **counts, unknown=dict(unknown), set_size=size, promised=predictor.promised, failures=failures
    )
