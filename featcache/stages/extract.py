"""`featcache extract`: run a frozen model once over a source and keep its tokens in a cache."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from featcache.api.cache import Cache
from featcache.cache.labels import LabelTable
from featcache.cache.reader import CacheReader, SplitReader, is_group
from featcache.cache.spec import Shapes
from featcache.cluster import HERE, ClusterOptions, Say, connected
from featcache.errors import CacheError, ConfigError, option
from featcache.extraction.block import BlockReport, holding, run_here
from featcache.extraction.estimate import Estimate
from featcache.extraction.growth import NO_CHANGES, Changes, in_cache_order
from featcache.extraction.opened import Opened
from featcache.extraction.options import ExtractOptions
from featcache.extraction.part import Part
from featcache.extraction.pilot import predict
from featcache.extraction.plan import draft, prepare
from featcache.extraction.spread import run_on
from featcache.extraction.understood import SplitClasses, Understood, listed
from featcache.files import free_bytes, human_bytes
from featcache.location import Location
from featcache.progress import MakeProgress, bar, human_time, silent
from featcache.shown import harmless

Place = str | os.PathLike[str] | Location


Tell = Callable[[Understood], object]
"""Function that is told what was understood of the source, before the forward pass."""


@dataclass
class SplitSummary:
    """The work done for one split, and the split as it is now."""

    rows: int
    computed: int
    """Views computed now; the others were there."""
    nbytes: int
    """Bytes of the split on disk."""
    failed: dict[str, str]
    """The reason by sample id, for samples that could not be read."""
    lost_classes: list[str]
    """Classes with samples of which none could be read."""
    seconds: float
    """From the first sample read to the last one written."""
    stages: dict[str, float]
    bound_by: str
    at_once: int | None
    """Most views that the model was given, where memory did not suffice for a whole batch."""
    relabelled: int
    """Samples whose label in the cache was replaced by that of the source."""
    missing: int = 0
    """Views that are not there yet, because other processes compute them."""
    added: int = 0
    """Rows that were added to those of an existing split."""
    by_worker: Mapping[str, float] = field(default_factory=dict)
    """Views a second by the address of a worker, where a cluster has computed them."""


def extract(
    source: str | os.PathLike[str],
    model: str,
    out: Place,
    *,
    overwrite: bool = False,
    device: str = "auto",
    shard_of: str | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    retry_failed: bool = False,
    allow_removed: bool = False,
    progress: bool = True,
    **options: Any,
) -> Cache:
    """Run `model` over `source` and return the cache at `out`; a rerun computes only what is missing.

    `options` are the fields of ExtractOptions, for example `views="weak=1,strong=2"`, `tokens="grid:4x4"`.
    `overwrite` replaces an existing cache. `progress` shows a bar where stderr is a terminal, a line a minute
    elsewhere, and warnings of what looks like a mistake in the source: `dry_run` returns all that was
    understood.

    A cache grows by samples, splits, views or layers that are new in the source and the options; only these
    are computed. What is there must not have changed. `allow_removed` marks the rows of samples that the
    source has no more. `retry_failed` computes rows again that failed; their samples may be repaired ones.

    `shard_of="3/8"` computes the third of eight parts, while other processes, on any machine, compute the
    others. `workers` is a number of processes of a Dask cluster on this machine, and `scheduler` the address
    of one that runs already; both need the extra `dask`.

    Raises a FeatcacheError where the source, the model, an option or the cache at `out` does not fit. What
    is written by then stays.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     cache = extract("digits", "open_clip:glyph-clip", f"{folder}/c.zarr", limit=8, tokens="grid:4x4")
    ...     cache["test"].array("tokens").shape
    (8, 1, 16, 128)
    """
    asked, show = ExtractOptions.of(options), bar if progress else silent
    tell = _warn if progress else _ignore
    how: dict[str, Any] = {"overwrite": overwrite, "device": device, "shard_of": shard_of}
    how["cluster"] = ClusterOptions.parse({"workers": workers, "scheduler": scheduler}, where=None)
    how["changes"] = Changes(retry_failed, allow_removed)
    run_extraction(source, model, out, asked, **how, progress=show, tell=tell)
    return Cache.open(out)


def _warn(understood: Understood) -> None:
    for line in understood.warning_lines():
        print(harmless(line), file=sys.stderr)


def _ignore(told: Understood | str) -> None:
    """Say nothing."""


def run_extraction(
    source: str | os.PathLike[str],
    model: str,
    out: Place,
    options: ExtractOptions,
    *,
    overwrite: bool = False,
    device: str = "auto",
    shard_of: str | None = None,
    cluster: ClusterOptions = HERE,
    changes: Changes = NO_CHANGES,
    progress: MakeProgress = silent,
    tell: Tell = _ignore,
    say: Say = _ignore,
) -> dict[str, SplitSummary]:
    """Do what `extract` does; return a summary by split.

    `tell` hears what was understood of the source, and `say` where the workers of a cluster are.
    """
    place, part = Location.of(out), None if shard_of is None else Part.parse(shard_of)
    _require_one_way(part, overwrite, cluster)
    opened = Opened.of(source, model, options, device)
    tell(opened.understood)
    before = None if overwrite or not is_group(place.path) else CacheReader.open(place.path)
    if before is not None:
        opened = in_cache_order(opened, before, changes)
    plan = prepare(opened, place, overwrite=overwrite, part=part, changes=changes)
    labels = LabelTable() if overwrite else _labels_at(place)
    there = {} if before is None else {name: before.split(name).rows for name in before.described}
    with holding(plan, opened) as cache:
        blocks = plan.blocks(cache)
        if cluster.used and blocks:
            opened.encoder.to(torch.device("cpu"))  # a GPU is for the workers
            with connected(cluster, device, say) as connection:
                reports = run_on(connection, plan, blocks, progress, device)
        else:
            reports = run_here(plan, blocks, opened, progress)
        summaries = {
            name: _summary(cache, report, labels, there.get(name)) for name, report in reports.items()
        }
        for name, summary in summaries.items():
            _require_some(name, summary)
    return summaries


def _require_one_way(part: Part | None, overwrite: bool, cluster: ClusterOptions) -> None:
    """Raise ConfigError for ways to share the work that exclude each other."""
    both = None
    if part is not None and overwrite:
        both = (option("overwrite", True), "delete the old cache first, or write to another place")
    if part is not None and cluster.used:
        other = option("workers" if cluster.workers is not None else "scheduler")
        both = (other, "a cluster hands out all blocks by itself")
    if both:
        what = f"{option('shard_of')} and {both[0]} exclude each other"
        raise ConfigError(what, got="both", hint=both[1])


@dataclass(frozen=True)
class DryRun:
    """The shapes, size, time and classes of an extraction. Unpacks to `shapes, splits`."""

    shapes: Shapes
    splits: dict[str, Estimate]
    """Bytes and seconds by split."""
    understood: Understood
    """Classes with counts, and warnings."""
    free: int
    """Bytes free on the disk of the cache."""

    def __iter__(self) -> Iterator[Any]:
        return iter((self.shapes, self.splits))


def dry_run(
    source: str | os.PathLike[str],
    model: str,
    out: Place,
    *,
    overwrite: bool = False,
    device: str = "auto",
    **options: Any,
) -> DryRun:
    """Return what was understood of the source, shapes, and bytes and seconds by split.

    The seconds come from a short timed pilot, whose files are removed afterwards. Raises what `extract`
    raises before it writes.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     dry = dry_run("digits", "open_clip:glyph-clip", f"{folder}/c.zarr", limit=4, tokens="cls")
    >>> dry.understood.splits["train"].classes, dry.splits["train"].rows
    ({'zero': 1, 'one': 1, 'two': 1, 'three': 1}, 4)
    """
    place = Location.of(out)
    opened = Opened.of(source, model, ExtractOptions.of(options), device)
    plan = draft(opened, place, overwrite=overwrite)
    free = free_bytes(place.path)
    return DryRun(
        plan.shapes, {name: predict(plan, opened, name) for name in opened.splits}, opened.understood, free
    )


def describe(name: str, summary: SplitSummary) -> str:
    """Describe the work on a split in a few lines."""
    rate = summary.computed / summary.seconds if summary.seconds else 0.0
    stages = ", ".join(f"{stage} {human_time(seconds)}" for stage, seconds in summary.stages.items())
    lines = [
        f"{name}: {summary.rows} rows, {summary.computed} views computed in {human_time(summary.seconds)} "
        f"({rate:.0f}/s), {human_bytes(summary.nbytes)}, {len(summary.failed)} failed",
        f"  {stages}" + (f"; bound by {summary.bound_by}" if summary.computed else ""),
    ]
    if summary.added:
        lines.append(f"  {summary.added} rows added to {summary.rows - summary.added}")
    if summary.by_worker:
        rates = ", ".join(f"{worker} {rate:.0f}/s" for worker, rate in summary.by_worker.items())
        lines.append(f"  by worker: {rates}")
    if summary.at_once:
        lines.append(f"  memory did not suffice for whole batches: at most {summary.at_once} views at once")
    if summary.relabelled:
        lines.append(f"  labels of {summary.relabelled} samples in the cache replaced by those of the source")
    if summary.missing:
        lines.append(f"  {summary.missing} views are not there yet: other parts compute them")
    lines += [f"  failed: {key}: {reason}" for key, reason in list(summary.failed.items())[:10]]
    if len(summary.failed) > 10:
        lines.append(f"  and {len(summary.failed) - 10} more")
    if summary.lost_classes:
        lines.append(f"  no sample could be read of the class {listed(summary.lost_classes)}")
    return "\n".join(lines)


def describe_dry_run(dry: DryRun) -> str:
    """Describe shapes, the size and time of each split in a line each, and all of them together."""
    lines = [
        f"tokens of layer {array.layer}: {array.tokens} x {array.dim}, pooled: {dry.shapes.pooled}"
        for array in dry.shapes.layers
    ]
    for name, estimate in dry.splits.items():
        views = f"{estimate.views} view{'' if estimate.views == 1 else 's'}"
        size, time = human_bytes(estimate.nbytes), human_time(estimate.seconds)
        lines.append(f"{name}: {estimate.rows} rows x {views}, {size}, about {time}")
    size = human_bytes(sum(estimate.nbytes for estimate in dry.splits.values()))
    seconds = human_time(sum(estimate.seconds for estimate in dry.splits.values()))
    lines.append(f"in all: {size} of {human_bytes(dry.free)} free, about {seconds}")
    return "\n".join(lines)


def _labels_at(place: Location) -> LabelTable:
    """Return the labels of the cache at a place; none if there is no cache, or if they are damaged."""
    if not is_group(place.path):
        return LabelTable()
    try:
        return CacheReader.open(place.path).labels
    except CacheError:
        return LabelTable()


def _summary(cache: CacheReader, report: BlockReport, labels: LabelTable, there: int | None) -> SplitSummary:
    split, clock = cache.split(report.split), report.clock
    failed = split.failures()
    return SplitSummary(
        rows=split.rows,
        computed=report.views,
        nbytes=split.nbytes(),
        failed={split.ids[row]: reason for row, reason in failed.items()},
        lost_classes=_lost_classes(split, failed),
        seconds=report.seconds,
        stages={"read": clock.read, "wait": clock.wait, "forward": clock.forward, "write": clock.write},
        bound_by=clock.bound_by(),
        at_once=report.at_once,
        relabelled=labels.changes(cache.labels, report.split),
        added=0 if there is None else split.rows - there,
        by_worker=report.by_worker,
        missing=sum(unit.stop - unit.start for unit in split.missing()),
    )


def _lost_classes(split: SplitReader, failed: Collection[int]) -> list[str]:
    """Return the classes of which every sample failed."""
    read = np.delete(split.labels, [*failed])
    there = SplitClasses.of(split.class_names, split.labels).classes
    return [name for name in there if name not in SplitClasses.of(split.class_names, read).classes]


def _require_some(name: str, summary: SplitSummary) -> None:
    if len(summary.failed) == summary.rows:
        raise CacheError(
            f"all {summary.rows} samples of `{name}` failed",
            got=next(iter(summary.failed.values())),
            hint=f"repair the files, then extract again with {option('overwrite', True)}",
        )
