"""Execute a plan: one block on any machine, or all blocks in this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from types import MappingProxyType

from featcache.cache.growing import grow
from featcache.cache.labels import LabelTable
from featcache.cache.reader import CacheReader
from featcache.cache.storage import held, storage_at
from featcache.cache.writer import CacheWriter, SplitWriter
from featcache.extraction.class_text import class_text
from featcache.extraction.feed import feed
from featcache.extraction.opened import Opened
from featcache.extraction.plan import Block, ExtractionPlan
from featcache.extraction.walk import Clock, Walk, walk
from featcache.progress import MakeProgress, silent


@dataclass(frozen=True)
class BlockReport:
    """Counts and times of one block, or of several blocks of one split."""

    split: str
    views: int = 0
    """Number of computed views, over all samples."""
    seconds: float = 0.0
    clock: Clock = field(default_factory=Clock)
    at_once: int | None = None
    """Most views in a forward pass, if memory did not suffice for a whole batch; else None."""
    by_worker: Mapping[str, float] = field(default_factory=dict)
    """Views a second by the address of a worker, where a cluster has computed them."""


@contextmanager
def begun(plan: ExtractionPlan, opened: Opened) -> Iterator[CacheReader]:
    """Hold the lock of the plan's cache, after writing everything except the units of its blocks.

    That is the group, the splits with their ids, the labels and the class texts. Raises CacheMismatch if the
    path holds another cache, and CacheError if another process is writing it.
    """
    if plan.growth is not None:
        with held(storage_at(plan.out).lock()):
            grow(storage_at(plan.out), plan.growth)
    with CacheWriter(
        plan.out,
        plan.spec,
        layout=plan.layout,
        overwrite=plan.overwrite,
        provenance=plan.provenance,
        part=plan.part_name,
    ) as writer:
        for name, split in plan.splits.items():
            samples = None if split.content is None else opened.digests(name).samples
            writer.split(name, split, opened.splits[name].ids, plan.shapes, samples)
        writer.label(LabelTable(opened.first.class_names, {n: opened.splits[n].labels for n in plan.splits}))
        # Before any shard, so that a cache with complete splits always has its class texts.
        _write_class_text(plan, opened, writer)
        yield CacheReader.open(writer.path)


@contextmanager
def holding(plan: ExtractionPlan, opened: Opened) -> Iterator[CacheReader]:
    """Hold what a process needs to compute the blocks of the plan: all of the cache, or its part only."""
    if plan.part_name is None:
        with begun(plan, opened) as cache:
            yield cache
        return
    with ExitStack() as stack:
        with begun(plan, opened) as cache:
            stack.enter_context(held(storage_at(plan.out).lock_part(plan.part_name)))
        yield cache


def extract_blocks(
    plan: ExtractionPlan,
    blocks: Sequence[Block],
    opened: Opened,
    advance: Callable[[int], object] = lambda done: None,
    unreadable: Mapping[int, str] = MappingProxyType({}),
) -> BlockReport:
    """Compute blocks of one split and write their units, while some process holds the lock of the cache.

    The bytes do not depend on the order or the process, nor on repetitions, on the same hardware. `advance`
    is called with counts of finished samples. `unreadable` gives the reason by row, for rows that are not to
    be read.
    """
    start, clock = time.perf_counter(), Clock()
    split = blocks[0].split
    names, size = plan.spec.views.names(), plan.batch_size
    done = 0
    with SplitWriter.open(CacheReader.open(plan.written_at), split) as writer:
        for views, some in groupby(blocks, key=lambda block: [unit.view for unit in block.units]):
            units = [unit for block in some for unit in block.units]
            asked = tuple(names[view] for view in views)
            dataset = opened.dataset(opened.splits[split], units, size, asked, unreadable)
            count = sum(unit.stop - unit.start for unit in units)
            with closing(feed(dataset, plan.workers(count), opened.forward.device)) as arriving:
                walk(arriving, opened.forward, Walk(writer, units, size), clock, advance)
            done += count
    return BlockReport(split, done, time.perf_counter() - start, clock, opened.forward.at_once)


def run_here(
    plan: ExtractionPlan, blocks: Sequence[Block], opened: Opened, progress: MakeProgress = silent
) -> dict[str, BlockReport]:
    """Compute all blocks in this process, split by split; reading, computing and writing overlap.

    The result is the same as by `extract_blocks`. The report of a split covers all its blocks.
    """
    reports = {}
    for name in plan.splits:
        own = [block for block in blocks if block.split == name]
        with progress(name, sum(len(block.rows) for block in own)) as bar:
            done = extract_blocks(plan, own, opened, bar.update) if own else BlockReport(name)
            reports[name] = done
    return reports


def _write_class_text(plan: ExtractionPlan, opened: Opened, writer: CacheWriter) -> None:
    """Write embeddings of the class names, if the model has a text tower and they are missing."""
    templates, names = opened.encoder.templates, plan.class_names
    if not (templates and names and writer.needs_class_text(names, templates)):
        return
    if (text := class_text(opened.encoder, names)) is not None:
        writer.class_text(text.numpy(), names, templates)
