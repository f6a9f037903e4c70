"""`featcache import`: bring embeddings that were made elsewhere into a cache."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from featcache.api.cache import Cache
from featcache.cache.reader import CacheReader, is_group
from featcache.exchange import own, restore
from featcache.exchange.options import ImportOptions
from featcache.exchange.plan import ImportPlan
from featcache.exchange.write import write
from featcache.files import human_bytes
from featcache.location import Location
from featcache.progress import MakeProgress, bar, silent
from featcache.specs import SAID

Place = str | os.PathLike[str] | Location


@dataclass(frozen=True)
class ImportSummary:
    """The plan of an import, and what was written of it."""

    plan: ImportPlan
    written: dict[str, int]
    """Rows written now, by split and over all views; the others were there."""
    nbytes: int


def import_embeddings(
    path: str | os.PathLike[str],
    out: Place,
    *,
    overwrite: bool = False,
    progress: bool = True,
    **options: Any,
) -> Cache:
    """Bring embeddings from files into a cache, and return the cache; a rerun writes only what is missing.

    `path` is a file, a folder or a pattern: `.npy`, `.npz`, HDF5 (also bags of CLAM and TRIDENT), `.pt`,
    safetensors, Parquet, what `datasets` saved, Zarr, or an export of featcache. `options` are the fields of
    ImportOptions, for example `pooled="emb"`, `labels="y"`, `model="UNI2-h"`. Values are stored exactly, in
    their own type.

    Raises a FeatcacheError, before anything is written, if a file cannot be read, if it is not clear which
    array holds what, if a value is not finite, or if `out` holds other embeddings.

    >>> import numpy as np
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     np.savez(f"{folder}/mine.npz", pooled=np.eye(4, 3, dtype="float32"), labels=list("abba"))
    ...     cache = import_embeddings(f"{folder}/mine.npz", f"{folder}/c.zarr", model="my model")
    ...     cache["train"].embeddings().shape, cache.classes
    ((4, 3), ('a', 'b'))
    """
    run_import(
        path, out, ImportOptions.of(options), overwrite=overwrite, progress=bar if progress else silent
    )
    return Cache.open(out)


def run_import(
    path: str | os.PathLike[str] | Location,
    out: Place,
    options: ImportOptions,
    *,
    overwrite: bool = False,
    progress: MakeProgress = silent,
) -> ImportSummary:
    """Do what `import_embeddings` does; return a summary."""
    target = Location.of(out).path
    there = None if overwrite or not is_group(target) else CacheReader.open(target)
    plan = plan_import(path, options, there, progress)
    written = write(plan, target, overwrite=overwrite, progress=progress)
    return ImportSummary(plan, written, CacheReader.open(target).nbytes())


def plan_import(
    path: str | os.PathLike[str] | Location,
    options: ImportOptions,
    there: CacheReader | None,
    progress: MakeProgress,
) -> ImportPlan:
    """Plan the import of a path; `there` is the cache that it continues."""
    place, encoder = Location.of(path).path, there.spec.encoder if there else None
    return restore.plan(place, options, progress) or own.plan(place, options, encoder, progress)


def describe(summary: ImportSummary) -> str:
    """Describe what was understood and written, in a few lines."""
    plan = summary.plan
    lines = [_origin(plan)]
    layer = plan.shapes.layers[0]
    if plan.spec.tokens == "pooled":
        lines.append(f"pooled:  {plan.shapes.pooled} {plan.spec.dtype}, which is also the only token")
    else:
        length = f"up to {layer.tokens}" if plan.shapes.mask else str(layer.tokens)
        thinned = f" (of up to {plan.longest}, evenly spaced)" if layer.tokens < plan.longest else ""
        lines.append(
            f"tokens:  {length}{thinned} x {layer.dim} {plan.spec.dtype}, pooled {plan.shapes.pooled}"
        )
    names = ", ".join(plan.class_names[:10]) + (", ..." if len(plan.class_names) > 10 else "")
    lines.append(
        f"classes: {len(plan.class_names)}" + (f" ({names})" if names else ", as no labels were found")
    )
    for name, split in plan.splits.items():
        rows, labelled = split.spec.rows, int((split.labels >= 0).sum())
        empty = f", {split.empty} without a token, marked as failed" if split.empty else ""
        state = f"{summary.written[name]} written now" if summary.written[name] else "all there already"
        lines.append(f"{name}: {rows} rows, {labelled} labelled{empty}, {state}")
    return "\n".join([*lines, f"size:    {human_bytes(summary.nbytes)}"])


def as_dict(summary: ImportSummary) -> dict[str, Any]:
    """Return the summary as plain values."""
    plan = summary.plan
    return {
        "model": plan.spec.encoder.model_dump(),
        "arrays": dict(plan.keys),
        "dtype": plan.spec.dtype,
        "shapes": plan.shapes.model_dump(mode="json"),
        "longest": plan.longest,
        "classes": list(plan.class_names),
        "bytes": summary.nbytes,
        "splits": {
            name: {
                "rows": split.spec.rows,
                "labelled": int((split.labels >= 0).sum()),
                "empty": split.empty,
                "written": summary.written[name],
            }
            for name, split in plan.splits.items()
        },
    }


def _origin(plan: ImportPlan) -> str:
    if plan.restored:
        return f"model:   {plan.spec.encoder.name}, as the export says"
    used = ", ".join(f"{role} from `{key}`" for role, key in plan.keys.items())
    if "pooled" not in plan.keys:
        used += ", pooled is their mean"
    said = "said, not verified" if plan.spec.encoder.weights == SAID else "name it by --model"
    return f"model:   {plan.spec.encoder.name} ({said})\narrays:  {used}"
