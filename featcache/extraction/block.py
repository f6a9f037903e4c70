"""Doing what a plan says: one block, on any machine, or all blocks, one after the other on this one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass

from featcache.cache.reader import CacheReader
from featcache.cache.writer import CacheWriter, SplitWriter
from featcache.extraction.class_text import class_text
from featcache.extraction.feed import feed
from featcache.extraction.opened import Opened
from featcache.extraction.plan import Block, ExtractionPlan
from featcache.extraction.walk import Clock, walk
from featcache.progress import MakeProgress, silent


@dataclass(frozen=True)
class BlockReport:
    """What was computed for a block, or for several of one split."""

    split: str
    views: int
    """Samples times views that were computed."""
    seconds: float
    clock: Clock
    at_once: int | None
    """Most views that the model was given, where memory did not suffice for a whole batch."""


@contextmanager
def begun(plan: ExtractionPlan, opened: Opened) -> Iterator[CacheReader]:
    """Hold the lock of the plan's cache, with everything in it but the units of its blocks.

    That is the group, the splits with labels and ids, and the class texts. Raises CacheMismatch where
    another cache is there, CacheError where another process is writing it.
    """
    with CacheWriter(
        plan.out, plan.spec, layout=plan.layout, overwrite=plan.overwrite, provenance=plan.provenance
    ) as writer:
        for name, split in plan.splits.items():
            source = opened.splits[name]
            writer.split(name, split, source.ids, source.labels, plan.shapes)
        # Before any shard, so that a cache whose splits are complete never lacks them.
        _write_class_text(plan, opened, writer)
        yield CacheReader.open(plan.out)


def extract_block(plan: ExtractionPlan, block: Block, opened: Opened) -> BlockReport:
    """Compute one block and write its units, while any process holds the cache's lock.

    Repeating it, or doing it in any order or process, gives the same bytes on the same hardware.
    """
    return _extract(plan, block.split, [block], opened)


def run_here(
    plan: ExtractionPlan, blocks: Sequence[Block], opened: Opened, progress: MakeProgress = silent
) -> dict[str, BlockReport]:
    """Compute all blocks in this process, split by split; reading, computing and writing overlap.

    Gives what `extract_block` would, block by block; the report of a split covers all its blocks.
    """
    reports = {}
    for name in plan.splits:
        own = [block for block in blocks if block.split == name]
        with progress(name, sum(len(block.rows) for block in own)) as bar:
            reports[name] = _extract(plan, name, own, opened, bar.update)
    return reports


def _extract(
    plan: ExtractionPlan,
    split: str,
    blocks: Sequence[Block],
    opened: Opened,
    advance: Callable[[int], object] = lambda done: None,
) -> BlockReport:
    start, clock = time.perf_counter(), Clock()
    units = [unit for block in blocks for unit in block.units]
    dataset = opened.dataset(opened.splits[split], units, plan.batch_size)
    views = sum(len(block.rows) for block in blocks) * len(dataset.view_names)
    with (
        SplitWriter.open(CacheReader.open(plan.out), split) as writer,
        closing(feed(dataset, plan.workers(views), opened.forward.device)) as arriving,
    ):
        walk(arriving, opened.forward, writer, units, clock, advance)
    return BlockReport(split, views, time.perf_counter() - start, clock, opened.forward.at_once)


def _write_class_text(plan: ExtractionPlan, opened: Opened, writer: CacheWriter) -> None:
    """Write embeddings of the class names, where there is a text tower and they are not there yet."""
    templates, names = opened.encoder.templates, plan.spec.class_names
    if not (templates and names and writer.needs_class_text(templates)):
        return
    if (text := class_text(opened.encoder, names)) is not None:
        writer.class_text(text.numpy(), templates)
