"""Plan the import of an export of featcache: the same cache again, with its identity, views and layers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.cache.reader import FAILED
from featcache.cache.spec import CLASS_TEXT, CacheSpec, array_name
from featcache.errors import ConfigError, SourceError, option
from featcache.exchange.columns import Column, Columns
from featcache.exchange.described import EXPORT, FILE, Description, array_names, digest, key_of
from featcache.exchange.formats import arrow, hdf5, numpy_, tensors
from featcache.exchange.options import ImportOptions
from featcache.exchange.plan import Batch, ImportedSplit, ImportPlan
from featcache.outside import json_of
from featcache.progress import MakeProgress

_PIECE = 32 << 20


def plan(place: Path, options: ImportOptions, progress: MakeProgress) -> ImportPlan | None:
    """Return the plan for an export; None for anything else, or if `options` say what the arrays are.

    Raise SourceError if its values are not those that were exported.
    """
    if options.keys() or options.model or options.dtype or options.max_tokens:
        return None
    found = _read(place)
    if found is None:
        return None
    described, tables = found
    try:
        spec = described.cache_spec()
    except ConfigError as error:
        raise SourceError(f"{place} was exported by another version of featcache", got=error) from None
    splits = {}
    for name, part in described.splits.items():
        columns = tables.get(name, {})
        _require_complete(columns, spec, described, name, place)
        with progress(f"checking {name}", len(columns) * part.split.rows) as bar:
            same = digest(columns, bar.update) == part.content
        if not same:
            raise SourceError(
                f"the values of `{name}` in {place} are not those that featcache exported",
                hint=f"say what made them now ({option('model', 'TEXT')}); that imports them as any others",
            )
        labels = _labels(columns["labels"], described.class_names)
        reader = _Restored(columns, spec, described, part.failed)
        ids = [str(value) for value in columns["ids"].values()]
        splits[name] = ImportedSplit(part.split, ids, labels, reader, reader.step)
    class_text = None
    if (texts := tables.get(CLASS_TEXT)) and (about := described.class_text) is not None:
        embedding = texts["embedding"]
        values = np.asarray(embedding.read(0, embedding.rows), np.float32)
        class_text = values, about.names, about.templates
    return ImportPlan(
        spec=spec,
        shapes=described.shapes,
        class_names=described.class_names,
        splits=splits,
        provenance={
            key: value for key, value in described.provenance.items() if key not in ("versions", "date")
        },
        keys={},
        longest=described.shapes.layers[0].tokens,
        class_text=class_text,
        chosen=described.chosen,
        restored=True,
    )


class _Restored:
    """Reads the rows of an exported split, view by view, as they were stored."""

    def __init__(
        self, columns: Columns, spec: CacheSpec, described: Description, failed: Mapping[int, str]
    ) -> None:
        self._columns, self._shapes, self._failed = columns, described.shapes, failed
        self._views, self._pooled_only = spec.views.names(), spec.tokens == "pooled"
        values = sum(layer.tokens * layer.dim for layer in described.shapes.layers)
        self.step = max(1, _PIECE // (8 * max(values, 1)))

    def __call__(self, view: int, start: int, stop: int) -> Batch:
        name = self._views[view]

        def read(array: str) -> NDArray[Any]:
            found: NDArray[Any] = self._columns[key_of(name, array)].read(start, stop)
            return found

        pooled = read("pooled")
        tokens = {
            layer.layer: pooled[:, None] if self._pooled_only else read(array_name(self._shapes, layer.layer))
            for layer in self._shapes.layers
        }
        status = np.asarray(self._columns["status"].read(start, stop)).reshape(stop - start, -1)[:, view]
        failed = {start + row: self._failed[start + row] for row in np.flatnonzero(status == FAILED).tolist()}
        return Batch(tokens, pooled, read("token_mask").astype(bool) if self._shapes.mask else None, failed)


def _read(place: Path) -> tuple[Description, Mapping[str, Columns]] | None:
    """Return the description and the tables of an export."""
    if (place / FILE).is_file():
        try:
            described = Description.parse(json_of((place / FILE).read_text()), None)
        except (ValueError, ConfigError) as error:
            raise SourceError(f"{place / FILE} cannot be read", got=error) from None
        return described, _folder(place, described)
    suffix = place.suffix.lower()
    if not place.is_file() or suffix not in (*hdf5.SUFFIXES, ".safetensors"):
        return None
    opened = (tensors if suffix == ".safetensors" else hdf5).open_file(place, place.name)
    if not opened.described or opened.described.get("export") != EXPORT:
        return None
    tables: dict[str, dict[str, Column]] = {}
    for key, column in opened.columns.items():
        table, _, name = key.partition("/")
        tables.setdefault(table, {})[name] = column
    return Description.parse(opened.described, None), tables


def _folder(place: Path, described: Description) -> Mapping[str, Columns]:
    tables: dict[str, dict[str, Column]] = {}
    for name in described.files:
        file = place / name
        if not file.is_file():
            raise SourceError(f"a file of the export {place} is missing", got=name)
        if file.suffix == ".parquet":
            tables[file.stem] = dict(arrow.open_file(file, name).columns)
        else:
            tables.setdefault(file.parent.name, {})[file.stem] = numpy_.column(file, name)
    return tables


def _require_complete(
    columns: Columns, spec: CacheSpec, described: Description, split: str, place: Path
) -> None:
    arrays = array_names(spec, described.shapes)
    wanted = {"ids", "labels", "status", *(key_of(v, a) for v in spec.views.names() for a in arrays)}
    rows = described.splits[split].split.rows
    missing = sorted(key for key in wanted if key not in columns or columns[key].rows != rows)
    if missing:
        raise SourceError(
            f"the export {place} is not whole", got=f"`{split}` without {', '.join(missing)} of {rows} rows"
        )


def _labels(column: Column, names: tuple[str, ...]) -> NDArray[np.int64]:
    """Return class indices from indices, or from names as Parquet has them."""
    if column.kind != "string":
        found = np.asarray(column.values(), np.int64)
        outside = found[(found < -1) | (found >= len(names))]
        if len(outside):
            raise SourceError(
                f"{column.where} has a class that the export does not name",
                got=int(outside[0]),
                expected=f"-1, or the index of one of {len(names)} classes",
            )
        return found
    index = {name: number for number, name in enumerate(names)}
    values = column.values()
    unknown = [value for value in values if value is not None and value not in index]
    if unknown:
        raise SourceError(f"{column.where} has a class that the export does not name", got=repr(unknown[0]))
    return np.array([-1 if value is None else index[str(value)] for value in values], np.int64)


def is_replaceable(place: Path) -> bool:
    """Return True if nothing is at a place, or an export and nothing besides."""
    if not place.exists():
        return True
    try:
        found = _read(place)
    except SourceError:
        return False
    if found is None or place.is_file():
        return found is not None
    files = {file.relative_to(place).as_posix() for file in place.rglob("*") if file.is_file()}
    return files <= {FILE, *found[0].files}
