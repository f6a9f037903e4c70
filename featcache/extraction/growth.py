"""Find out what a source, a model and options add to a cache that is there, and refuse what changes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from featcache.cache.create import SplitRows
from featcache.cache.growing import Growth
from featcache.cache.identity import ELSEWHERE
from featcache.cache.reader import CacheReader, SplitReader, sample_digests
from featcache.cache.spec import SEALED_SINCE, CacheSpec, Shapes, SplitSpec
from featcache.errors import CacheError, CacheMismatch, option
from featcache.extraction.opened import Opened
from featcache.sources.base import GONE, Source, digests_of, gone_of, in_order, limit


@dataclass(frozen=True)
class Changes:
    """Allow changes to samples of a cache."""

    retry_failed: bool = False
    """Compute rows again that failed; their samples may have changed."""
    allow_removed: bool = False
    """Mark the rows of samples that the source has no more."""


class Wanted(NamedTuple):
    """Spec, shapes and provenance that a cache is asked to have."""

    spec: CacheSpec
    shapes: Shapes
    provenance: Mapping[str, Any]


def in_cache_order(opened: Opened, cache: CacheReader, changes: Changes) -> Opened:
    """Return the source with its rows in the order of the cache; new ones come last.

    Raises CacheError if it has lost samples, unless that is allowed.
    """
    splits: dict[str, Source] = {}
    for name, source in opened.splits.items():
        splits[name] = source
        if name in cache.described:
            split = cache.split(name)
            if not _has_ids(split):
                continue
            if not changes.allow_removed:
                _require_none_lost(opened, source, split)
            splits[name] = in_order(source, split.ids)
    return replace(opened, splits=splits)


def growth_of(opened: Opened, cache: CacheReader, wanted: Wanted, changes: Changes) -> Growth | None:
    """Return what a cache is to become; None if it stays as it is.

    The source is in the order of the cache. Raises CacheMismatch if one of the samples that are there has
    changed, and CacheError if the cache cannot grow like that.
    """
    grown: dict[str, SplitRows] = {}
    again: dict[str, set[int]] = {}
    gone: dict[str, dict[int, str]] = {}
    for name, source in opened.splits.items():
        if name not in cache.described or (split := cache.split(name)).spec.source is not None:
            continue  # the digest of format 1 is another one
        if (rows := _grown_rows(opened, name, split, changes)) is not None:
            grown[name] = rows
        if changes.retry_failed and (failed := failed_rows(split)):
            again[name] = failed
        if lost := newly_gone(source, split):
            gone[name] = lost
    if not (grown or again or gone) and wanted.spec == cache.spec:
        return None
    _require_growable(opened, cache, wanted.spec)
    return Growth(wanted.spec, wanted.shapes, wanted.provenance, grown, again, gone)


def _grown_rows(opened: Opened, name: str, split: SplitReader, changes: Changes) -> SplitRows | None:
    """Return the rows that a split is to have; None if it has them."""
    source, found = opened.splits[name], opened.digests(name, split.rows)
    rows = SplitSpec(content=found.content, rows=len(source))
    if rows == split.spec:
        return None
    if found.first != split.spec.content and _first_only(source, split.rows) != split.spec.content:
        _require_same_samples(source, split, found.samples, changes)
    return SplitRows(rows, source.ids, found.samples)


def extends(spec: CacheSpec, stored: CacheSpec) -> bool:
    """Return True if a spec is a stored one with more views, or with more layers after those there."""
    views = spec.views.model_copy(update={"weak": stored.views.weak, "strong": stored.views.strong})
    more = spec.views.weak >= stored.views.weak and spec.views.strong >= stored.views.strong
    same = spec.model_copy(update={"views": views, "layers": spec.layers[: len(stored.layers)]})
    return more and same == stored


def failed_rows(split: SplitReader) -> set[int]:
    """Return the rows that failed and may work another time."""
    return {row for row, reason in split.failures().items() if not reason.startswith(GONE)}


def newly_gone(source: Source, split: SplitReader) -> dict[int, str]:
    """Return the rows of samples that the source has no more, and that are not marked yet."""
    marked = split.failures()
    return {row: GONE for row in sorted(gone_of(source)) if not marked.get(row, "").startswith(GONE)}


def _has_ids(split: SplitReader) -> bool:
    """Return False if the ids are damaged; then they are written again, in the order of the source."""
    try:
        return bool(split.ids)
    except CacheError:
        return False


def _require_none_lost(opened: Opened, source: Source, split: SplitReader) -> None:
    known, marked = {*source.ids}, split.failures()
    lost = [row for row, name in enumerate(split.ids) if name not in known]
    if not (lost := [row for row in lost if not marked.get(row, "").startswith(GONE)]):
        return
    limited = opened.options.limit is not None
    raise CacheError(
        f"the source has no sample `{split.ids[lost[0]]}` any more, which is in {split.storage}",
        got=f"{len(lost)} of {split.rows} samples are missing in the source",
        expected="all samples of the cache, and any number of new ones",
        hint=f"leave out {option('limit')}, or ask for more"
        if limited
        else f"{option('allow_removed', True)} keeps their rows, marked as failed; or {ELSEWHERE}",
    )


def _first_only(source: Source, rows: int) -> str | None:
    """Return the digest of the first samples as a limit makes it."""
    return digests_of(limit(source, rows)).content if rows < len(source) else None


def _require_same_samples(
    source: Source, split: SplitReader, found: NDArray[np.uint64], changes: Changes
) -> None:
    stored = sample_digests(split)
    if stored is None:
        raise CacheMismatch(
            f"{split.storage} was made with another `content`",
            got=f"{split.rows} samples with the digest {split.spec.content}",
            expected="the same content in the source; which sample differs is not known of an older cache",
            hint=ELSEWHERE,
        )
    other = {*np.flatnonzero(stored != found[: split.rows]).tolist()}
    other -= gone_of(source)
    if changes.retry_failed:
        other -= failed_rows(split)
    if other:
        row = min(other)
        raise CacheMismatch(
            f"{split.storage} was made with another `content` of `{split.ids[row]}`",
            got=f"{len(other)} of {split.rows} samples differ from those in the source",
            expected="the same samples, and any number of new ones",
            hint=f"{option('retry_failed', True)} computes repaired samples that failed; or {ELSEWHERE}",
        )


def _require_growable(opened: Opened, cache: CacheReader, spec: CacheSpec) -> None:
    if cache.format < SEALED_SINCE:
        raise CacheError(
            f"{cache.storage} is of an earlier format, which cannot grow",
            got=f"format {cache.format}",
            expected=f"format {SEALED_SINCE}",
            hint="`featcache verify CACHE --adopt` makes it one",
        )
    if spec == cache.spec:
        return
    if left := [name for name in cache.split_names if name not in opened.splits]:
        raise CacheError(
            f"{cache.storage} has a split `{left[0]}`, which would lack the new views or layers",
            got=f"the splits {', '.join(opened.splits)}",
            expected="all splits of the cache",
            hint=f"leave out {option('split')}, or choose another {option('out')}",
        )


NO_CHANGES = Changes()
