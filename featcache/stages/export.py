"""`featcache export`: write a cache in a format that other tools read."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any, Literal, get_args

from featcache.cache.labels import LabelTable
from featcache.cache.reader import CacheReader, SplitReader, read_attributes
from featcache.cache.spec import CLASS_TEXT
from featcache.config import did_you_mean
from featcache.errors import CacheError, ConfigError, option
from featcache.exchange import restore
from featcache.exchange.cached import columns_of
from featcache.exchange.columns import Column
from featcache.exchange.described import ClassText, Description, SplitDescription, digest
from featcache.exchange.writers import WRITERS, Tables
from featcache.files import explained, human_bytes, partial
from featcache.location import Location
from featcache.progress import MakeProgress, bar, silent

Place = str | os.PathLike[str] | Location
Format = Literal["h5", "npy", "parquet", "safetensors"]


def export(cache: Place, out: Place, *, to: Format, split: str | None = None, progress: bool = True) -> Path:
    """Write a cache (or one `split` of it) to `out`, and return the path.

    `to` is `h5` or `safetensors` (one file), `npy` or `parquet` (a folder). It holds ids, labels, class
    names, status and every view and layer, in the types of the cache; int8 tokens as float32.
    `import_embeddings` makes the same cache of it again.

    Raises a FeatcacheError if the cache is not complete, or if something else than an earlier export is at
    `out`, which is left as it is.

    >>> from tempfile import TemporaryDirectory
    >>> from featcache.stages.extract import extract
    >>> with TemporaryDirectory() as folder:
    ...     made = extract("digits", "open_clip:glyph-clip", f"{folder}/c.zarr", limit=4, tokens="pooled")
    ...     export(made, f"{folder}/c.h5", to="h5").name
    'c.h5'
    """
    return run_export(cache, out, to=to, split=split, progress=bar if progress else silent)


def run_export(
    cache: Place, out: Place, *, to: str, split: str | None = None, progress: MakeProgress = silent
) -> Path:
    """Do what `export` does."""
    if to not in get_args(Format):
        hint = did_you_mean(str(to), get_args(Format))
        raise ConfigError(f"{option('to')} is no format of an export", got=repr(to), hint=hint)
    target, opened = Location.of(out).path, CacheReader.open(Location.of(cache).path)
    _refuse_foreign(target)
    splits = [opened.split(name) for name in ([split] if split else opened.split_names)]
    if not splits:
        raise CacheError(f"the cache {opened.path} has no split yet", hint="extract or import it first")
    for part in splits:
        part.check()
    labels = opened.labels  # once, as another process may replace them
    tables: dict[str, dict[str, Column]] = {part.name: columns_of(opened, part, labels) for part in splits}
    rows = sum(column.rows for columns in tables.values() for column in columns.values())
    with progress("checking", rows, "values") as shown:
        described = _description(opened, splits, labels, tables, shown.update)
    if described.class_text is not None:
        tables[CLASS_TEXT] = {"embedding": _whole(opened.text_of(described.class_text.names))}
    unfinished = partial(target)
    with explained(target), progress("writing", rows, "values") as shown:
        target.parent.mkdir(parents=True, exist_ok=True)
        _delete(unfinished)
        try:
            WRITERS[to](unfinished, tables, described, shown.update)
            _delete(target)
            os.replace(unfinished, target)
        finally:
            _delete(unfinished)
    return target


def describe(path: Path) -> str:
    """Describe what was written in one line."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    size = human_bytes(sum(file.stat().st_size for file in files))
    return f"export: {path} ({size}{f', {len(files)} files' if len(files) > 1 else ''})"


def _description(
    cache: CacheReader, splits: list[SplitReader], labels: LabelTable, tables: Tables, done: Any
) -> Description:
    """Return what the export says of itself."""
    spec = cache.spec.model_dump(mode="json")
    layers = tuple(layer.model_copy(update={"std": ()}) for layer in cache.shapes.layers)
    texts = read_attributes(cache.storage.below(CLASS_TEXT))
    return Description(
        spec={**spec, "dtype": "float32" if cache.spec.dtype == "int8" else cache.spec.dtype},
        shapes=cache.shapes.model_copy(update={"layers": layers}),
        class_names=labels.class_names,
        chosen=labels.chosen,
        class_text=texts and ClassText(names=texts["class_names"], templates=texts["templates"]),
        provenance=cache.provenance,
        splits={
            split.name: SplitDescription(
                split=split.spec, failed=split.failures(), content=digest(tables[split.name], done)
            )
            for split in splits
        },
    )


def _whole(values: Any) -> Column:
    return Column(
        CLASS_TEXT, len(values), values.shape[1:], "float32", lambda start, stop: values[start:stop]
    )


def _refuse_foreign(out: Path) -> None:
    """Raise ConfigError if something else than an earlier export is at `out`."""
    if restore.is_replaceable(out):
        return
    raise ConfigError(
        f"{out} exists and is not an earlier export; it is left as it is",
        got="a folder" if out.is_dir() else "a file",
        expected="an earlier export, or nothing",
        hint=f"choose another {option('out')}",
    )


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
