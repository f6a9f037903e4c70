"""`featcache copy` and `featcache merge`: make a cache of a part of another one, or of several."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featcache.api.cache import Cache
from featcache.cache.reader import CacheReader
from featcache.errors import ConfigError, option
from featcache.exchange.copying import plan_copy
from featcache.exchange.merging import plan_merge
from featcache.exchange.options import CopyOptions
from featcache.exchange.plan import ImportPlan
from featcache.exchange.write import write
from featcache.files import human_bytes
from featcache.location import HasPath, Location
from featcache.progress import MakeProgress, bar, silent

Place = str | os.PathLike[str] | HasPath


@dataclass(frozen=True)
class CopySummary:
    """The rows of a copy or a merge by split, those written now, and the bytes of both sides."""

    rows: dict[str, int]
    written: dict[str, int]
    """Rows written now, by split and over all views; the others were there."""
    nbytes: int
    before: int
    """Bytes of what was copied or merged."""

    def describe(self) -> str:
        """Describe the copy in a line for each split, and one for the size."""
        lines = [
            f"{name}: {rows} rows, "
            + (f"{self.written[name]} written now" if self.written[name] else "all there already")
            for name, rows in self.rows.items()
        ]
        return "\n".join([*lines, f"size:  {human_bytes(self.nbytes)}, from {human_bytes(self.before)}"])


def copy(
    cache: Place, out: Place, *, overwrite: bool = False, progress: bool = True, **options: Any
) -> Cache:
    """Copy a cache, or a part of it, and return the copy; a rerun writes only what is missing.

    `options` are the fields of CopyOptions: a `split`, `rows` (a number, or a file of sample ids), `classes`,
    `views`, `layers`, `tokens` (averaged from those there) and `dtype`. What is not named stays as it is,
    byte for byte. Every shard is compared with its checksum as it is read.

    Raises a FeatcacheError, before anything is written, if the cache is not complete or does not have what is
    named, or if `out` holds another cache.

    >>> from tempfile import TemporaryDirectory
    >>> from featcache.stages.extract import extract
    >>> with TemporaryDirectory() as folder:
    ...     made = extract("digits", "open_clip:glyph-clip", f"{folder}/c.zarr", limit=8)
    ...     small = copy(made, f"{folder}/small.zarr", rows=4, tokens="grid:2x2", dtype="int8")
    ...     small["train"].array("tokens").shape
    (4, 1, 4, 128)
    """
    run_copy(cache, out, CopyOptions.of(options), overwrite=overwrite, progress=bar if progress else silent)
    return Cache.open(_path(out))


def merge(caches: Sequence[Place], out: Place, *, overwrite: bool = False, progress: bool = True) -> Cache:
    """Write several caches of the same model and options as one, and return it; a rerun continues.

    The rows of a split follow each other in the order of `caches`; classes are united by name.

    Raises a FeatcacheError, before anything is written, if they do not fit together, or a sample is in two.

    >>> from tempfile import TemporaryDirectory
    >>> from featcache.stages.extract import extract
    >>> with TemporaryDirectory() as folder:
    ...     made = extract("digits", "open_clip:glyph-clip", f"{folder}/c.zarr", limit=8, tokens="cls")
    ...     parts = [copy(made, f"{folder}/{name}", classes=name) for name in ("zero|one", "two")]
    ...     merge(parts, f"{folder}/m.zarr").classes
    ('zero', 'one', 'two')
    """
    run_merge(caches, out, overwrite=overwrite, progress=bar if progress else silent)
    return Cache.open(_path(out))


def run_copy(
    cache: Place,
    out: Place,
    options: CopyOptions,
    *,
    overwrite: bool = False,
    progress: MakeProgress = silent,
) -> CopySummary:
    """Do what `copy` does; return a summary."""
    opened = _opened([cache], out)
    return _written(plan_copy(opened[0], options), opened, out, overwrite, progress)


def run_merge(
    caches: Sequence[Place], out: Place, *, overwrite: bool = False, progress: MakeProgress = silent
) -> CopySummary:
    """Do what `merge` does; return a summary."""
    if len(caches) < 2:
        raise ConfigError("a merge takes several caches", got=len(caches), expected="two or more")
    opened = _opened(caches, out)
    return _written(plan_merge(opened), opened, out, overwrite, progress)


def _opened(caches: Sequence[Place], out: Place) -> list[CacheReader]:
    target = _path(out)
    for cache in map(_path, caches):
        if cache.resolve() == target.resolve():
            raise ConfigError(
                f"{option('out')} is one of the caches that are read", got=target, expected="another place"
            )
    return [CacheReader.open(path) for path in map(_path, caches)]


def _written(
    plan: ImportPlan, caches: Sequence[CacheReader], out: Place, overwrite: bool, progress: MakeProgress
) -> CopySummary:
    target = _path(out)
    written = write(plan, target, overwrite=overwrite, relabel=True, progress=progress)
    rows = {name: split.spec.rows for name, split in plan.splits.items()}
    before = sum(cache.nbytes() for cache in caches)
    return CopySummary(rows, written, CacheReader.open(target).nbytes(), before)


def _path(place: Place) -> Path:
    return Location.of(place).path
