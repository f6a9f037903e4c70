"""Opening a cache: what it holds, whether it is whole, and its arrays."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.cache import codec, ledger
from featcache.cache.array import ShardedArray
from featcache.cache.layout import Unit, units
from featcache.cache.spec import FORMAT, CacheSpec, FeatureSpec, Shapes, SplitSpec
from featcache.config import did_you_mean
from featcache.errors import CacheError, ConfigError

MISSING, WRITTEN, FAILED = 0, 1, 2
"""The values of `status`."""
_RESUME = "rerun the same `featcache extract` command to finish it"


class CacheReader:
    """A cache on disk, opened for reading."""

    def __init__(self, path: Path, spec: CacheSpec, shapes: Shapes, attributes: Mapping[str, Any]) -> None:
        self.path, self.spec, self.shapes = path, spec, shapes
        self.fingerprint: str = attributes["fingerprint"]
        self.provenance: dict[str, Any] = attributes["provenance"]

    @classmethod
    def open(cls, path: str | Path) -> CacheReader:
        """Open the cache at `path`; raises CacheError where there is none, or it has another format."""
        path = Path(path)
        attributes = read_attributes(path)
        if attributes is None:
            got = "a folder or file that is something else" if path.exists() else "no such folder"
            hint = "make one with `featcache extract SOURCE --model MODEL --out CACHE.zarr`"
            raise CacheError(f"no featcache cache at {path}", got=got, hint=hint)
        if attributes["format"] != FORMAT:
            found = attributes["format"]
            raise CacheError(
                f"{path} has another format",
                got=found,
                expected=FORMAT,
                hint="use the featcache that wrote it",
            )
        try:
            spec, shapes = CacheSpec.parse(attributes["spec"]), Shapes.parse(attributes["shapes"])
        except ConfigError as error:
            raise CacheError(f"the description of the cache {path} is damaged", got=error) from None
        return cls(path, spec, shapes, attributes)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names by label."""
        return self.spec.class_names

    @property
    def split_names(self) -> tuple[str, ...]:
        """The splits, sorted."""
        found = (entry.name for entry in os.scandir(self.path) if entry.is_dir())
        return tuple(sorted(name for name in found if "split" in (read_attributes(self.path / name) or {})))

    def split(self, name: str) -> SplitReader:
        """One split; raises CacheError with the names there are."""
        if name not in self.split_names:
            raise CacheError(
                f"no split `{name}` in {self.path}", hint=did_you_mean(name, self.split_names) or "extract it"
            )
        return SplitReader(self.path / name, self.spec.views.names())

    @functools.cached_property
    def class_text(self) -> NDArray[np.float32] | None:
        """(class, P) embeddings of the class names, not normalised; None without a text tower."""
        if not (self.path / "class_text" / "zarr.json").exists():
            return None
        return np.asarray(read_array(self.path / "class_text" / "embedding"), np.float32)

    def features(self, layer: int | None = None) -> FeatureSpec:
        """Where `pooled` and the tokens of a layer come from: of the first layer, if that one is not held."""
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
        """Bytes on disk."""
        return sum(file.stat().st_size for file in self.path.rglob("*") if file.is_file())


class SplitReader:
    """One split: its rows in source order, and its arrays (sample, view, ...)."""

    def __init__(self, path: Path, views: tuple[str, ...]) -> None:
        self.path, self.views = path, views
        attributes = read_attributes(path) or {}
        self.spec = SplitSpec.parse(attributes["split"])
        self.arrays: tuple[str, ...] = tuple(attributes["arrays"])
        self._opened: dict[str, ShardedArray] = {}
        self._status = ShardedArray.open(path / "status")
        self.units: tuple[Unit, ...] = tuple(units(self.rows, len(views), self._status.layout.shard[0]))

    @property
    def name(self) -> str:
        """Its name in the cache: train, test, ..."""
        return self.path.name

    @property
    def rows(self) -> int:
        """N, the number of samples."""
        return self.spec.rows

    @functools.cached_property
    def labels(self) -> NDArray[np.int64]:
        """(N,) class index, or -1."""
        return np.asarray(read_array(self.path / "label"), np.int64)

    @functools.cached_property
    def ids(self) -> list[str]:
        """(N,) stable sample ids."""
        return [str(name) for name in read_array(self.path / "sample_id")]

    @property
    def status(self) -> NDArray[np.uint8]:
        """(N, V): 0 missing, 1 written, 2 failed; read anew each time."""
        status, rows = ShardedArray.open(self._status.path), np.arange(self.rows)
        return np.stack([status.gather(rows, view) for view in range(len(self.views))], axis=1)

    def array(self, name: str) -> ShardedArray:
        """One of `arrays`: tokens, pooled, token_mask, tokens_layer-2, ...; else raises CacheError."""
        if name not in self.arrays:
            raise CacheError(f"no array `{name}` in {self.path}", hint=did_you_mean(name, self.arrays))
        if name not in self._opened:
            self._opened[name] = ShardedArray.open(self.path / name, strict=True)
        return self._opened[name]

    def failures(self) -> dict[int, str]:
        """Why a row failed, by row; rows that failed in several views are listed once."""
        entries = filter(None, (ledger.read(self.path, unit) for unit in self.units))
        return {row: reason for entry in entries for row, reason in entry.failed.items()}

    def missing(self) -> list[Unit]:
        """The units still to write: not committed, or with a file that is missing or truncated."""
        return [unit for unit in self.units if not self._is_whole(unit)]

    def complete(self) -> bool:
        """Whether every row of every view is written and in place; `check` says what is not."""
        return not self.missing()

    def check(self) -> None:
        """Raise CacheError, naming the first missing or truncated shard, unless the split is complete."""
        entries = [ledger.read(self.path, unit) for unit in self.units]
        rows = ledger.read(self.path)
        if rows is None:
            raise codec.damaged(ledger.path(self.path), "no such file", "the entry of labels and sample ids")
        for entry in filter(None, [rows, *entries]):
            if damage := ledger.damage(self.path, entry):
                file, found, expected = damage
                got = "no such file" if found is None else f"{found:,} bytes"
                raise codec.damaged(file, got, f"{expected:,} bytes")
        written = sum(entry is not None for entry in entries)
        if written < len(entries):
            got = f"{written} of {len(entries)} units (up to {self._status.layout.shard[0]} rows of a view)"
            raise CacheError(f"the split {self.path} is not complete", got=got, hint=_RESUME)

    def __reduce__(self) -> tuple[Any, ...]:
        return SplitReader, (self.path, self.views)

    def _is_whole(self, unit: Unit) -> bool:
        entry = ledger.read(self.path, unit)
        return entry is not None and ledger.damage(self.path, entry) is None


def read_attributes(path: Path) -> dict[str, Any] | None:
    """The `featcache` attributes of the Zarr v3 group at `path`; None where there is no such group."""
    try:
        metadata = json.loads((path / "zarr.json").read_bytes())
        found = metadata["attributes"]["featcache"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, dict) else None


def read_array(path: Path) -> Any:
    """A whole small array (labels, ids, class texts), read by zarr-python; raises CacheError if it cannot."""
    import zarr

    try:
        return zarr.open_array(path, mode="r")[...]
    except (OSError, ValueError) as error:
        raise CacheError(f"the array {path} is damaged", got=error, hint=_RESUME) from error
