"""Read a cache: what it contains, whether it is complete, and its arrays."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from featcache.cache import labels, ledger, zarr_files
from featcache.cache.array import ShardedArray
from featcache.cache.checks import ShardChecks
from featcache.cache.description import CacheDescription, ClassTextDescription, SplitDescription, parsed
from featcache.cache.labels import LabelTable
from featcache.cache.layout import Unit, units
from featcache.cache.records import FileRecord, damaged
from featcache.cache.spec import CLASS_TEXT, FORMAT, READABLE, CacheSpec, FeatureSpec, Shapes
from featcache.cache.storage import PARTIAL, Place, Storage, folder_of, storage_at
from featcache.cache.zarr_files import METADATA
from featcache.config import did_you_mean
from featcache.errors import CacheError

MISSING, WRITTEN, FAILED = 0, 1, 2
"""Values of `status`."""


class CacheReader:
    """A cache, opened for reading."""

    def __init__(
        self, storage: Storage, spec: CacheSpec, shapes: Shapes, attributes: Mapping[str, Any]
    ) -> None:
        self.storage, self.spec, self.shapes = storage, spec, shapes
        self.format: int = attributes["format"]
        self.fingerprint: str = attributes["fingerprint"]
        self.provenance: dict[str, Any] = attributes["provenance"]

    @classmethod
    def open(cls, place: Place | Storage) -> Self:
        """Open the cache in a folder; raise CacheError if there is none, or it has another format."""
        storage = storage_at(place).pinned()
        attributes = read_attributes(storage)
        if attributes is None:
            something = storage.names() or storage.size("") is not None
            got = "something else, which is not a cache" if something else "no such folder, or an empty one"
            hint = "make one with `featcache extract SOURCE --model MODEL --out CACHE.zarr`"
            raise CacheError(f"no featcache cache at {storage}", got=got, hint=hint)
        if (found := attributes.get("format")) not in READABLE:
            hint = "use the version of featcache that wrote it"
            raise CacheError(f"{storage} has another format", got=found, expected=FORMAT, hint=hint)
        about = parsed(CacheDescription, attributes, name := f"the cache {storage}")
        spec, shapes = _spec_of(about.spec, name), parsed(Shapes, about.shapes, name)
        return cls(storage, spec, shapes, attributes)

    @property
    def path(self) -> Path:
        """Folder of the cache; raises CacheError if its storage is not a folder."""
        return folder_of(self.storage)

    @property
    def labels(self) -> LabelTable:
        """The current labels of all splits; read from storage at each access."""
        return read_labels(self.storage)

    @property
    def labels_of_format_1(self) -> LabelTable:
        """The labels that an extraction of format 1 wrote into the splits; empty in format 2."""
        return _labels_of_format_1(self.storage)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names by label."""
        return self.labels.class_names

    @property
    def split_names(self) -> tuple[str, ...]:
        """Names of the splits, sorted; raise CacheError if one of them has lost its description."""
        if lost := self.undescribed:
            raise _undescribed(self.storage, lost[0])
        return self.described

    @property
    def described(self) -> tuple[str, ...]:
        """Names of the splits that can be opened, sorted."""
        others = (labels.LABELS, CLASS_TEXT)
        names = (n for n in self.storage.names() if not n.endswith(PARTIAL) and n not in others)
        return tuple(name for name in names if "split" in (read_attributes(self.storage.below(name)) or {}))

    @property
    def undescribed(self) -> tuple[str, ...]:
        """Names of folders with the ledger of a split, but not its description: damaged, or unfinished."""
        found = (self.storage.below(n) for n in self.storage.names() if not n.endswith(PARTIAL))
        return tuple(s.name for s in found if not is_group(s) and ledger.is_begun(s))

    def split(self, name: str) -> SplitReader:
        """Open one split; raise CacheError, listing the names of all splits, if there is none."""
        self.storage.require_pin()
        if name not in self.described:
            if name in self.undescribed:
                raise _undescribed(self.storage, name)
            hint = did_you_mean(name, self.described) or "extract it"
            raise CacheError(f"no split `{name}` in {self.storage}", hint=hint)
        return SplitReader(self.storage, name, self.spec.views.names())

    @property
    def class_text(self) -> NDArray[np.float32] | None:
        """(class, P) embeddings of the class names, not normalised; None without a text tower."""
        return self.text_of(self.class_names)

    @property
    def has_class_text(self) -> bool:
        """True if the cache holds embeddings of class names."""
        return read_attributes(self.storage.below(CLASS_TEXT)) is not None

    def text_of(self, names: Sequence[str]) -> NDArray[np.float32] | None:
        """Return the (C, P) embeddings of some class names; None unless it holds all of them."""
        texts = self.storage.below(CLASS_TEXT)
        attributes = read_attributes(texts)
        if attributes is None:
            return None
        about = parsed(ClassTextDescription, attributes, texts)
        if not names or not {*names} <= {*about.class_names}:
            return None
        held = about.class_names
        records = {key.removeprefix("embedding/"): record for key, record in about.files.items()}
        embedding = np.asarray(read_array(texts.below("embedding"), records), np.float32)
        if embedding.ndim != 2 or len(embedding) != len(held):
            got, expected = f"shape {embedding.shape}", f"{len(held)} rows"
            raise CacheError(f"the class texts {texts} are damaged", got=got, expected=expected)
        return embedding[[*map(held.index, names)]]

    def features(self, layer: int | None = None) -> FeatureSpec:
        """Describe `pooled` and the tokens of a layer; of the first layer if the cache lacks that one."""
        layers = self.shapes.layers
        shape = next((shape for shape in layers if shape.layer == layer), layers[0])
        return FeatureSpec(
            encoder=self.spec.encoder,
            layer=shape.layer,
            tokens=self.spec.tokens,
            dim=shape.dim,
            pooled=self.shapes.pooled,
        )

    def nbytes(self) -> int:
        """Return the bytes that the cache takes."""
        return self.storage.nbytes()


class SplitReader:
    """One split: its rows in source order, and its arrays (sample, view, ...). Can be pickled."""

    def __init__(self, cache: Storage, name: str, views: tuple[str, ...]) -> None:
        self._cache, self.storage, self.name, self.views = cache, cache.below(name), name, views
        storage = self.storage
        about = parsed(SplitDescription, read_attributes(storage) or {}, storage)
        self.spec = about.split
        self.arrays: tuple[str, ...] = tuple(about.arrays)
        self._opened: dict[tuple[str, bool], ShardedArray] = {}
        self.checks = ShardChecks(storage)
        self._status = ShardedArray.open(storage.below("status"))
        _require_fitting(self._status, self.rows, len(views))
        self.block = self._status.layout.shard[0]
        """Rows of a unit."""
        self.units: tuple[Unit, ...] = tuple(units(self.rows, len(views), self.block))

    @property
    def path(self) -> Path:
        """Folder of the split; raises CacheError if its storage is not a folder."""
        return folder_of(self.storage)

    @property
    def rows(self) -> int:
        """Number of samples, N."""
        return self.spec.rows

    @functools.cached_property
    def _label_table(self) -> LabelTable:
        """Read once, as another process may replace it between names and numbers."""
        return read_labels(self._cache)

    @property
    def labels(self) -> NDArray[np.int64]:
        """(N,) class index, or -1: the labels of the cache when this split was first asked for them."""
        return self._label_table.of(self.name, self.rows)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names by label, of the same time as `labels`."""
        return self._label_table.class_names

    @functools.cached_property
    def ids(self) -> list[str]:
        """(N,) stable sample ids."""
        return _ids_in(self.storage, self.rows)

    @property
    def status(self) -> NDArray[np.uint8]:
        """(N, V): 0 missing, 1 written, 2 failed; read from storage, and checked, at each access."""
        found = np.full((self.rows, len(self.views)), MISSING, np.uint8)
        for unit in self.units:
            if (entry := ledger.read(self.storage, unit)) is not None:
                key = f"status/{self._status.layout.unit_key(unit)}"
                found[unit.start : unit.stop, unit.view] = ledger.status(self.storage, key, unit, entry)
        return found

    def array(self, name: str, *, checked: bool = True) -> ShardedArray:
        """Open one of `arrays` (tokens, pooled, token_mask, ...); raise CacheError for any other name.

        Shards that are read from are compared with the ledger in a thread, unless `checked` is False.
        """
        if name not in self.arrays:
            raise CacheError(f"no array `{name}` in {self.storage}", hint=did_you_mean(name, self.arrays))
        if (name, checked) not in self._opened:
            checks = self.checks if checked else None
            opened = ShardedArray.open(self.storage.below(name), strict=True, checks=checks)
            _require_fitting(opened, self.rows, len(self.views))
            self._opened[name, checked] = opened
        return self._opened[name, checked]

    def nbytes(self) -> int:
        """Return the bytes that the split takes."""
        return self.storage.nbytes()

    def failures(self) -> dict[int, str]:
        """Return the reasons of failed rows, by row; one reason if a row failed in several views."""
        entries = filter(None, (ledger.read(self.storage, unit) for unit in self.units))
        return {row: reason for entry in entries for row, reason in entry.failed.items()}

    def missing(self) -> list[Unit]:
        """Return the units to write: not committed, or with a file that is missing or truncated."""
        return [unit for unit in self.units if not is_written(self.storage, unit)]

    def complete(self) -> bool:
        """Return True if every row of every view is written; `check` says what is missing."""
        return not self.missing()

    def check(self) -> None:
        """Raise CacheError, naming the first missing or truncated file, unless the split is complete."""
        stored = (read_attributes(self.storage) or {}).get("split")
        if stored != self.spec.model_dump():
            raise CacheError(f"{self.storage} was replaced since it was opened", hint="open it again")
        entries = [ledger.read(self.storage, unit) for unit in self.units]
        rows = ledger.read(self.storage)
        for unit, entry in ((None, rows), *zip(self.units, entries, strict=True)):
            if entry is None and (unit is None or self.storage.size(ledger.key(unit)) is not None):
                raise damaged(f"{self.storage}/{ledger.key(unit)}", "missing or unreadable", "a whole entry")
        for entry in filter(None, [rows, *entries]):
            if damage := ledger.damage(self.storage, entry):
                key, found, expected = damage
                got = "no such file" if found is None else f"{found:,} bytes"
                raise damaged(f"{self.storage}/{key}", got, f"{expected:,} bytes")
        written = sum(entry is not None for entry in entries)
        if written < len(entries):
            got = f"{written} of {len(entries)} units (up to {self.block} rows of a view)"
            hint = "rerun the same `featcache extract` command to finish it"
            raise CacheError(f"the split {self.storage} is not complete", got=got, hint=hint)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._cache, self.name, self.views)


def sample_digests(split: SplitReader) -> NDArray[np.uint64] | None:
    """Return the (N,) digests of the content of each sample; None where they were not written."""
    records = ledger.records(split.storage, "sample_digest")
    return (
        np.asarray(read_array(split.storage.below("sample_digest"), records), np.uint64) if records else None
    )


def is_written(split: Storage, unit: Unit) -> bool:
    """Return True if a unit of a split is committed, and its files have their sizes."""
    entry = ledger.read(split, unit)
    return entry is not None and ledger.damage(split, entry) is None


def _ids_in(split: Storage, rows: int) -> list[str]:
    place, records = split.below("sample_id"), ledger.records(split, "sample_id")
    found = [str(name) for name in read_array(place, records)]
    if len(found) != rows:
        raise CacheError(f"the ids in {place} do not fit their split", got=len(found), expected=f"{rows} ids")
    return found


def _require_fitting(array: ShardedArray, rows: int, views: int) -> None:
    """Raise CacheError unless an array has the rows and views of its split."""
    if array.shape[:2] != (rows, views):
        what = f"the description of {array.storage} does not fit its split"
        raise CacheError(what, got=f"rows, views: {array.shape[:2]}", expected=f"{(rows, views)}")


def is_group(place: Place | Storage) -> bool:
    """Return True if there is a group of featcache, such as a cache or a split, even if it is damaged."""
    return zarr_files.is_group(storage_at(place).read(METADATA))


def read_attributes(place: Place | Storage) -> dict[str, Any] | None:
    """Return the `featcache` attributes of a Zarr v3 group; None if there is no such group.

    Raise CacheError if it is sealed and has been altered.
    """
    storage = storage_at(place)
    data = storage.read(METADATA)
    zarr_files.require_whole(storage, data, own=storage.name == CLASS_TEXT)
    return zarr_files.attributes_of(data)


def read_labels(cache: Storage) -> LabelTable:
    """Return the current labels of a cache; in format 1, they were arrays of the splits."""
    table = labels.read(cache)
    return _labels_of_format_1(cache) if table is None else table


def _labels_of_format_1(cache: Storage) -> LabelTable:
    spec = (read_attributes(cache) or {}).get("spec", {})
    splits = (name for name in cache.names() if cache.size(f"{name}/label/zarr.json") is not None)
    arrays = {name: np.asarray(read_array(cache.below(f"{name}/label")), np.int64) for name in splits}
    return LabelTable(tuple(spec.get("class_names", ())), arrays)


def _spec_of(stored: Mapping[str, Any], name: str) -> CacheSpec:
    """Parse a stored spec; format 1 kept the class names in it."""
    fields = {name: value for name, value in stored.items() if name not in ("class_names", "format")}
    return parsed(CacheSpec, fields, name)


def _undescribed(cache: Storage, name: str) -> CacheError:
    return CacheError(
        f"the split `{name}` of {cache} is damaged, or was never finished",
        got=f"no readable {name}/{METADATA}",
        hint="`featcache repair CACHE`, or repeat the command that wrote it",
    )


def read_array(place: Place | Storage, records: Mapping[str, FileRecord] | None = None) -> Any:
    """Return a whole small array (ids, class texts); raise CacheError if it cannot be read or was altered.

    `records` are those of its files, by key below it.
    """
    return zarr_files.decode(storage_at(place), records)
