"""`featcache check`: find doubtful labels, duplicates, leaks and failed rows."""

from __future__ import annotations

import os
from pathlib import Path

from featcache.cache.reader import CacheReader
from featcache.checking.findings import COLUMNS, Findings
from featcache.checking.inspect import from_run, inspect
from featcache.checking.neighbours import NEAR
from featcache.checking.samples import Samples
from featcache.errors import CacheError, ConfigError, option
from featcache.files import explained, write_atomic
from featcache.labels.table import LabelFiles, read_labels
from featcache.location import HasPath, Location
from featcache.progress import MakeProgress, bar, silent
from featcache.runs.run import RunFolder, cache_of, is_run
from featcache.training.held_out import load_held_out
from featcache.training.learners import class_names_of

Place = str | os.PathLike[str] | HasPath


def check(
    place: Place,
    *,
    labels: LabelFiles | None = None,
    label_column: str | None = None,
    ignore_unmatched: bool = False,
    out: Place | None = None,
    near: float = NEAR,
    progress: bool = True,
) -> Findings:
    """Check the samples and labels of a cache, or of the cache and the labels of a finished run.

    The findings are doubtful labels, duplicates (also across splits, and with different labels), rows that
    failed in extraction, classes with fewer than two labels, and class names that are almost the same. Labels
    are judged by the run's held-out predictions, or else by a cross-validated linear probe. `labels` are
    files of labels to check instead of those in the cache. `out` is a CSV file for the doubtful labels.
    `near` is the largest distance of near duplicates, as a share of the usual distance of neighbours; 0 finds
    only equal embeddings.

    Raises CacheError if the cache is not there or not complete, and ConfigError for an argument that is not
    valid. Findings are no error.

    >>> from tempfile import TemporaryDirectory
    >>> from featcache.stages.extract import extract
    >>> with TemporaryDirectory() as folder:
    ...     cache = extract("digits", "open_clip:glyph-clip", f"{folder}/c.zarr", limit=60, tokens="cls")
    ...     found = check(cache, progress=False)
    ...     found.samples, len(found.contradictory)
    (120, 0)
    """
    if not 0 <= near < 1:
        raise ConfigError(f"{option('near')} is out of range", got=near, expected="from 0 to below 1")
    table = None if out is None else Location.of(out).path
    if table is not None:
        _refuse_foreign(table)
    show: MakeProgress = bar if progress else silent
    folder = Location.of(place).path
    run = RunFolder.finished(folder) if is_run(folder) else None
    cache = CacheReader.open(folder) if run is None else _cache_of(run)
    known, notes = cache.labels, tuple[str, ...]()
    if labels:
        own = read_labels(labels, cache, label_column=label_column, ignore_unmatched=ignore_unmatched)
        known, notes = own.table, own.warnings
    samples, held = Samples.of(cache, known), None
    if run is not None and not labels and (predicted := load_held_out(run)) is not None:
        split = str(run.config()["options"]["data"]["train"])
        samples, held = from_run(samples, split, predicted, class_names_of(run))
    findings = inspect(samples, held, near=near, notes=notes, show=show)
    if table is not None:
        with explained(table):
            table.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(table, findings.table().encode())
    return findings


def _cache_of(run: RunFolder) -> CacheReader:
    """Open the cache that a run was trained on; raises CacheError if it is not there any more."""
    path, hint = cache_of(run), "check the cache itself: `featcache check CACHE`"
    if path is None or not path.exists():
        raise CacheError(f"the cache of the run {run.path} is gone", got=path, hint=hint)
    cache, config = CacheReader.open(path), run.config()
    same = all(
        name in cache.split_names and cache.split(name).spec.model_dump() == spec
        for name, spec in config["splits"].items()
    )
    if cache.fingerprint != config["cache"] or not same:
        raise CacheError(f"{path} is another cache than the run {run.path} was trained on", hint=hint)
    return cache


def _first_line(path: Path) -> str:
    with path.open("rb") as file:
        return file.readline(1000).decode(errors="replace").strip()


def _refuse_foreign(out: Path) -> None:
    """Raise ConfigError if `out` exists and is not an earlier table of doubtful labels."""
    with explained(out):
        if not out.exists():
            return
        head = _first_line(out) if out.is_file() else None
    if head not in ("", ",".join(COLUMNS)):
        raise ConfigError(
            f"{out} exists and is not a table of doubtful labels; it is left as it is",
            got="a folder" if head is None else f"a file that begins with {head[:60]!r}",
            expected="an earlier table, or nothing",
            hint=f"choose another {option('out')}, such as doubtful.csv",
        )
