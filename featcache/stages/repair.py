"""`featcache repair`: write the damaged and missing files of a cache again, from its source and model."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from featcache.cache import labels
from featcache.cache import repair as cache_repair
from featcache.cache.labels import LabelTable
from featcache.cache.reader import CacheReader, read_attributes
from featcache.cache.repair import Losses
from featcache.cache.spec import CLASS_TEXT
from featcache.cache.storage import Folder, held
from featcache.cache.verify import Verification
from featcache.cache.writer import CacheWriter
from featcache.errors import CacheError, option
from featcache.exchange.options import ImportOptions
from featcache.exchange.write import write as write_import
from featcache.extraction.block import run_here
from featcache.extraction.growth import Changes, in_cache_order
from featcache.extraction.opened import Opened
from featcache.extraction.options import ExtractOptions
from featcache.extraction.plan import prepare
from featcache.location import HasPath, Location
from featcache.progress import MakeProgress, bar, silent
from featcache.stages.import_ import plan_import
from featcache.stages.label import class_text_of
from featcache.stages.verify import as_dict, describe, verify_folder

Place = str | os.PathLike[str] | HasPath


@dataclass(frozen=True)
class Repaired:
    """The work of a repair, and what is left."""

    restored: Sequence[str]
    """Descriptions written again from their copies."""
    units: int
    """Units computed again."""
    changed: Sequence[str]
    """Files computed again that have other bytes than before, as on another machine; their rows are whole."""
    after: Verification
    """What is still damaged."""

    def as_dict(self) -> dict[str, Any]:
        """Return everything as values that JSON can hold."""
        made = {"restored": list(self.restored), "units": self.units, "changed": list(self.changed)}
        return {**made, **as_dict(self.after)}

    def describe(self) -> str:
        """Say in a few lines what was done, and what is left."""
        lines = [f"restored: {len(self.restored)} descriptions; computed again: {self.units} units"]
        if self.changed:
            lines.append(
                f"{len(self.changed)} files have other bytes than before, as last digits depend on the "
                f"machine: {', '.join(self.changed[:5])}"
            )
        return "\n".join([*lines, describe(self.after)])


def repair(
    place: Place,
    *,
    source: str | os.PathLike[str] | None = None,
    model: str | None = None,
    device: str = "auto",
    progress: bool = True,
) -> Repaired:
    """Write what is damaged or missing in a cache again: from copies, and from its source and model.

    `source` and `model` are by default those recorded in the cache. Only damaged and missing units are
    computed. On the machine that made the cache, the bytes are those of before. Ids, labels and class texts
    come from the source, too.

    Raises CacheMismatch if source or model have changed. Raises CacheError if there is no cache, if its
    description is lost, or if its labels are not those of the source; everything else is repaired by then.

    >>> from tempfile import TemporaryDirectory
    >>> from featcache.stages.extract import extract
    >>> with TemporaryDirectory() as folder:
    ...     cache = extract("digits", "open_clip:glyph-clip", f"{folder}/c.zarr", limit=8, tokens="cls")
    ...     shard = cache.path / "train/pooled/c/0/0/0"
    ...     before, _ = shard.read_bytes(), shard.write_bytes(b"")
    ...     repaired = repair(cache.path, progress=False)
    ...     repaired.units, repaired.after.whole, shard.read_bytes() == before
    (1, True, True)
    """
    storage, show = Folder(Location.of(place).path), bar if progress else silent
    with held(storage.lock()):
        restored = cache_repair.restore_metadata(storage)
        before = verify_folder(storage, False, show)
        losses = cache_repair.losses_of(storage, before.damages)
    if not before.whole:
        _rewrite(storage, losses, source, model, device, show)
    changed = cache_repair.changed(storage, losses)
    units = sum(map(len, losses.units.values())) + before.unwritten
    return Repaired(restored, units, changed, verify_folder(storage, False, show))


def _rewrite(
    storage: Folder,
    losses: Losses,
    source: str | os.PathLike[str] | None,
    model: str | None,
    device: str,
    show: MakeProgress,
) -> None:
    cache = CacheReader.open(storage)
    made = cache.provenance
    path = source or made.get("source")
    if path is None:
        raise CacheError(
            f"the cache {storage} does not record its source", hint=f"give it: {option('source')}"
        )
    if model is None and "model" not in made:
        _import_again(storage, losses, path, show)
        return
    name = model or str(made["model"])
    if model is None and name.startswith("python:"):
        raise CacheError(
            f"the model of {storage} is code, which is not run because a cache names it",
            got=name,
            hint=f"if you trust it: {option('model', name)}",
        )
    _extract_again(storage, losses, os.fspath(path), name, device, show)


def _extract_again(
    storage: Folder, losses: Losses, source: str, model: str, device: str, show: MakeProgress
) -> None:
    cache = CacheReader.open(storage)
    rows = {name: cache.split(name).rows for name in cache.described}
    options = ExtractOptions.recorded(cache).model_copy(update={"limit": rows})
    opened = in_cache_order(Opened.of(source, model, options, device), cache, Changes(allow_removed=True))
    plan = prepare(opened, storage.path)
    with CacheWriter(storage, plan.spec, layout=plan.layout) as writer:
        for name, split in plan.splits.items():
            samples = None if split.content is None else opened.digests(name).samples
            writer.split(name, split, opened.splits[name].ids, plan.shapes, samples)
        # Not before source and model are known to be those of the cache.
        cache_repair.take_off(storage, losses)
        run_here(plan, plan.blocks(CacheReader.open(storage)), opened, show)
        own = LabelTable(opened.first.class_names, {n: opened.splits[n].labels for n in plan.splits})
        if losses.class_text:
            _restore_class_text(writer, storage, own)
        if losses.labels:
            _restore_labels(storage, own)


def _import_again(
    storage: Folder, losses: Losses, source: str | os.PathLike[str], show: MakeProgress
) -> None:
    cache = CacheReader.open(storage)
    options = ImportOptions.of(cache.provenance.get("options", {}))
    plan = plan_import(source, options, cache, show)
    with held(storage.lock()):
        cache_repair.take_off(storage, losses)
    write_import(plan, storage.path, relabel=False, progress=show)
    if losses.labels:
        with held(storage.lock()):
            _restore_labels(storage, plan.labels)


def _restore_class_text(writer: CacheWriter, storage: Folder, own: LabelTable) -> None:
    """Embed the names that were embedded before; those of the source if they are lost."""
    try:
        texts: dict[str, Any] = read_attributes(storage.below(CLASS_TEXT)) or {}
    except CacheError:
        texts = {}
    names = tuple(texts.get("class_names", own.class_names))
    embedding, templates = class_text_of(CacheReader.open(storage), LabelTable(names))
    storage.delete(CLASS_TEXT)
    writer.class_text(embedding, names, templates)


def _restore_labels(storage: Folder, own: LabelTable) -> None:
    """Write the labels again: those that can still be read, or those of the source if they were the same."""
    try:
        table = labels.read(storage)
    except CacheError:
        table = None
    if table is None:
        expected = labels.digest_at(storage)
        if expected is None or not own.digest().startswith(expected):
            raise CacheError(
                f"the labels of {storage} are damaged, and were not those of the source",
                hint="give them again: `featcache label CACHE --from FILE`; all else is repaired",
            )
        table = own
    labels.write(storage, table)
