"""Write a planned import into a cache: whole units, so that an interrupted import continues."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from featcache.cache import overwriting
from featcache.cache.reader import is_group
from featcache.cache.schema import view_bytes
from featcache.cache.storage import storage_at
from featcache.cache.writer import CacheWriter, SplitWriter
from featcache.errors import option
from featcache.exchange.plan import ImportedSplit, ImportPlan
from featcache.extraction.estimate import require_room
from featcache.progress import MakeProgress


def write(
    plan: ImportPlan,
    out: Path,
    *,
    overwrite: bool = False,
    relabel: bool = True,
    progress: MakeProgress,
) -> dict[str, int]:
    """Write what is missing of a plan; return the rows written now, by split.

    The labels of a cache that is there are replaced, unless `relabel` is False.

    Raise CacheMismatch if `out` holds a cache of other embeddings, CacheError if it holds something else.
    """
    _require_room(plan, out, overwrite)
    written = {}
    how: dict[str, Any] = {"layout": plan.layout, "overwrite": overwrite, "provenance": plan.provenance}
    with CacheWriter(out, plan.spec, **how) as writer:
        begun = {
            name: writer.split(name, split.spec, split.ids, plan.shapes, split.samples)
            for name, split in plan.splits.items()
        }
        if relabel:
            writer.label(plan.labels)
        if plan.class_text is not None:
            writer.class_text(*plan.class_text)
        for name, split in begun.items():
            written[name] = _fill(split, plan.splits[name], name, progress)
    return written


def _fill(writer: SplitWriter, split: ImportedSplit, name: str, progress: MakeProgress) -> int:
    """Write the missing units of one split."""
    units = writer.missing()
    rows = sum(unit.stop - unit.start for unit in units)
    with progress(name, rows) as bar:
        for unit in units:
            with writer.begin(unit) as out:
                for start in range(unit.start, unit.stop, split.step):
                    stop = min(start + split.step, unit.stop)
                    batch = split.read(unit.view, start, stop)
                    out.append(batch.tokens, batch.pooled, batch.mask, batch.failed)
                    bar.update(stop - start)
                out.commit()
    return rows


def _require_room(plan: ImportPlan, out: Path, overwrite: bool) -> None:
    """Raise CacheError if the disk cannot hold what is not written yet."""
    rows = sum(split.spec.rows for split in plan.splits.values())
    needed = rows * len(plan.spec.views.names()) * view_bytes(plan.shapes, plan.spec.dtype)
    storage = overwriting.written_at(storage_at(out), overwrite)
    if is_group(storage):
        needed -= storage.nbytes()
    require_room(out, needed, f"or fewer tokens ({option('max_tokens')})")
