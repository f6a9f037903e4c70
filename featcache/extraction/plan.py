"""The plan of an extraction: everything that is decided before the first sample is computed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from featcache.cache import overwriting
from featcache.cache.growing import Growth
from featcache.cache.layout import Unit
from featcache.cache.reader import CacheReader, is_group
from featcache.cache.spec import CacheSpec, LayoutSpec, Shapes, SplitSpec
from featcache.cache.storage import Storage, storage_at
from featcache.cache.writer import CacheWriter
from featcache.errors import CacheError, SourceError, option
from featcache.extraction import estimate
from featcache.extraction.batch_size import auto_batch
from featcache.extraction.feed import auto_workers, feed
from featcache.extraction.growth import NO_CHANGES, Changes, Wanted, extends, growth_of
from featcache.extraction.int8_scale import PILOT_ROWS, token_std
from featcache.extraction.opened import Opened
from featcache.extraction.options import ExtractOptions
from featcache.extraction.part import Part
from featcache.location import Location
from featcache.sources.base import digest_samples


@dataclass(frozen=True)
class Block:
    """A range of rows of a split, in all views, with some units that are not written yet.

    Values depend on the batch that a sample is in, so all rows of a block are computed together.
    """

    split: str
    units: tuple[Unit, ...]
    """The units to write: at most one for each view, all of the same rows."""

    @property
    def rows(self) -> range:
        """The rows of the split."""
        return range(self.units[0].start, self.units[0].stop)


@dataclass(frozen=True)
class ExtractionPlan:
    """Everything that determines an extraction; picklable, so that other processes can do parts of it."""

    source: str
    model: str
    device: str
    """The name of the device; `auto` only in a plan for a cluster, whose workers choose."""
    options: ExtractOptions
    out: Path
    overwrite: bool
    spec: CacheSpec
    layout: LayoutSpec
    shapes: Shapes
    batch_size: int
    """Views in a forward pass."""
    splits: Mapping[str, SplitSpec]
    """Digest and number of rows by split, in the order of the extraction; empty in a draft."""
    class_names: tuple[str, ...] = ()
    """Classes of the source, whose names are embedded if the model has a text tower."""
    text_tower: bool = False
    """True if it has one, so that names that come later can be embedded too."""
    part: Part | None = None
    """The blocks that are to be computed; None for all."""
    growth: Growth | None = None
    """What the cache that is there has to become first; None if it stays as it is."""

    @property
    def provenance(self) -> dict[str, Any]:
        """The origin of the cache; without the path of the cache, so that equal caches have equal bytes."""
        made = {"source": self.source, "model": self.model, "options": self.options.content()}
        return {**made, **({"text_tower": True} if self.text_tower else {})}

    @property
    def part_name(self) -> str | None:
        """The part as locks name it."""
        return None if self.part is None else str(self.part)

    @property
    def written_at(self) -> Storage:
        """Where the cache is while it is written: beside the old one, if that is replaced."""
        return overwriting.written_at(storage_at(self.out), self.overwrite)

    def blocks(self, cache: CacheReader) -> list[Block]:
        """List the blocks with a unit that is not in the ledger, or whose files are missing or truncated.

        Only those of the part, if there is one.
        """
        found, before = [], 0
        for name in self.splits:
            split = cache.split(name)
            for block, units in groupby(split.missing(), key=lambda unit: unit.block):
                if self.part is None or self.part.has(before + block):
                    found.append(Block(name, tuple(units)))
            before += -(-split.rows // split.block)
        return found

    def open(self) -> Opened:
        """Open the source and the model in another process, without digesting the content again.

        Raises SourceError if a split has another number of samples, and CacheError if the model has changed.
        """
        opened = Opened.of(self.source, self.model, self.options, self.device)
        for name, split in self.splits.items():
            rows = len(opened.splits[name]) if name in opened.splits else 0
            if rows != split.rows:
                what = f"the split `{name}` of {self.source} has changed since the extraction began"
                raise SourceError(what, got=f"{rows} samples", expected=f"{split.rows} samples")
        for field, here, planned in opened.encoder.spec.diff(self.spec.encoder):
            what = f"the `{field}` of the model {self.model} has changed since the extraction began"
            raise CacheError(what, got=here, expected=planned)
        return opened

    def workers(self, views: int) -> int:
        """Return the number of reading processes for a number of views; 0 means that a thread reads."""
        asked = self.options.num_workers
        return auto_workers(views) if asked is None else asked

    def nbytes(self, rows: int) -> int:
        """Return the bytes on disk of a split with a number of rows."""
        return estimate.cache_bytes(self.shapes, rows, len(self.spec.views.names()), self.spec.dtype)


def prepare(
    opened: Opened,
    out: str | os.PathLike[str] | Location,
    *,
    overwrite: bool = False,
    part: Part | None = None,
    changes: Changes = NO_CHANGES,
) -> ExtractionPlan:
    """Plan an extraction into `out`, and check that it can begin. Write nothing.

    Digests the content of every split, whose rows are in the order of the cache (`in_cache_order`). Raises a
    FeatcacheError if the source, the model and the cache at `out` do not fit together. It also does so if
    `overwrite` would delete other splits, or if the disk is too small.
    """
    plan = replace(draft(opened, out, overwrite=overwrite), part=part)
    place = storage_at(plan.out)
    cache = CacheReader.open(place) if not overwrite and is_group(place) else None
    grows = cache is not None and extends(plan.spec, cache.spec)
    spec = cache.spec if cache is not None and grows else plan.spec
    with CacheWriter(plan.out, spec, layout=plan.layout, overwrite=overwrite, part=plan.part_name) as writer:
        older = {name for name in opened.splits if _is_older(writer.split_spec(name))}
    if plan.spec.dtype == "int8":
        stored = {} if cache is None else {array.layer: array.std for array in cache.shapes.layers}
        new = [array.layer for array in plan.shapes.layers if array.layer not in stored]
        std = {**(_measured_std(plan, opened) if new else {}), **stored}
        plan = replace(plan, shapes=plan.shapes.with_std(std))
    if cache is not None:
        wanted = Wanted(plan.spec, plan.shapes, plan.provenance)
        plan = replace(plan, growth=growth_of(opened, cache, wanted, changes))
    splits = {name: _split_spec(opened, name, older=name in older) for name in opened.splits}
    return replace(plan, splits=splits)


def draft(
    opened: Opened, out: str | os.PathLike[str] | Location, *, overwrite: bool = False
) -> ExtractionPlan:
    """Make a plan without reading all data: without splits, and without scales of int8 tokens.

    Raises the errors of `prepare`, except for a cache at `out` that does not fit, which is not looked at.
    """
    place, options = Location.of(out).path, opened.options
    _require_no_loss(opened, place, overwrite)
    spec = CacheSpec.parse(
        {
            "encoder": opened.encoder.spec.model_dump(),
            "layers": options.layers,
            "tokens": options.tokens,
            "views": options.views,
            "dtype": options.dtype,
            "amp": options.amp,
        },
        "the options",
    )
    auto = options.batch_size == "auto"
    plan = ExtractionPlan(
        source=opened.source,
        model=opened.model,
        device=str(opened.forward.device),
        options=options,
        out=place,
        overwrite=overwrite,
        spec=spec,
        layout=LayoutSpec(shard_size=options.shard_size),
        shapes=opened.forward.shapes(opened.first),
        batch_size=auto_batch(opened.forward, opened.first) if auto else int(options.batch_size),
        splits={},
        class_names=opened.first.class_names,
        text_tower=bool(opened.encoder.templates),
    )
    _require_room(plan, opened)
    return plan


def _measured_std(plan: ExtractionPlan, opened: Opened) -> dict[int, list[float]]:
    """Measure the scales of int8 tokens on the first samples of the first split, in the `eval` view."""
    rows = min(len(opened.first), PILOT_ROWS)
    dataset = opened.dataset(
        opened.first, [Unit(0, 0, 0, rows)], plan.batch_size, plan.spec.views.names()[:1]
    )
    with closing(feed(dataset, plan.workers(rows), opened.forward.device)) as arriving:
        return token_std(plan.shapes, arriving, opened.forward)


def _require_no_loss(opened: Opened, out: Path, overwrite: bool) -> None:
    """Raise CacheError if overwriting some splits would delete other splits of the cache."""
    options = opened.options
    every = options.split is None and not isinstance(options.limit, Mapping)
    if every or not overwrite or not is_group(out):
        return
    cache = CacheReader.open(out)
    lost = [name for name in (*cache.described, *cache.undescribed) if name not in opened.splits]
    if lost:
        raise CacheError(
            f"{option('overwrite', True)} replaces the whole cache {out}, so other splits would be deleted",
            got=f"splits {', '.join(lost)} in the cache",
            expected=f"only {', '.join(opened.splits)}",
            hint=f"extract all splits together, without {option('split')}, or choose another {option('out')}",
        )


def _require_room(plan: ExtractionPlan, opened: Opened) -> None:
    """Raise CacheError if the disk cannot hold the missing part of the cache."""
    storage = plan.written_at
    there = sum(map(storage.nbytes, opened.splits)) if is_group(storage) else 0
    needed = sum(plan.nbytes(len(source)) for source in opened.splits.values())
    estimate.require_room(plan.out, needed - there)


def _is_older(stored: SplitSpec | None) -> bool:
    """Return True for a split of format 1, whose digest covers the labels."""
    return stored is not None and stored.source is not None


def _split_spec(opened: Opened, name: str, *, older: bool) -> SplitSpec:
    source = opened.splits[name]
    if older:
        return SplitSpec(rows=len(source), source=digest_samples(source, labels=True))
    return SplitSpec(rows=len(source), content=opened.digests(name).content)
