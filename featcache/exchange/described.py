"""The description that an export holds of itself, so that importing it gives the same cache again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import numpy as np

from featcache.cache.spec import CacheSpec, Shapes, SplitSpec
from featcache.config import Config
from featcache.exchange.columns import FLOATS, Column, Columns

FILE = "featcache.json"
"""The description in a folder; files of one piece hold it themselves."""
EXPORT = 1


class SplitDescription(Config):
    """One split of an export."""

    split: SplitSpec
    failed: dict[int, str]
    """The reason, by row."""
    content: str
    """SHA-256 of ids, status and features."""


class ClassText(Config):
    """The names whose embeddings an export holds, and their templates."""

    names: list[str]
    templates: list[str]


class Description(Config):
    """The identity and the geometry of an exported cache."""

    export: int = EXPORT
    spec: dict[str, Any]
    """Of the CacheSpec, with the type of the exported values: float32 for int8 tokens."""
    shapes: Shapes
    class_names: tuple[str, ...]
    chosen: int
    """Labels whose samples `suggest` chose."""
    class_text: ClassText | None
    provenance: dict[str, Any]
    splits: dict[str, SplitDescription]
    files: tuple[str, ...] = ()
    """The files of an export to a folder."""

    def cache_spec(self) -> CacheSpec:
        """Return the spec of the cache that holds the exported values, in today's format."""
        fields = {key: value for key, value in self.spec.items() if key not in ("format", "class_names")}
        return CacheSpec.parse(fields, "the description of the export")

    def text(self) -> str:
        """Return the description as JSON."""
        return json.dumps(self.model_dump(mode="json"))


def array_names(spec: CacheSpec, shapes: Shapes) -> list[str]:
    """Return the arrays of an export: those of the cache without the scales of int8 tokens.

    With pooled embeddings as the only tokens, they are not written a second time.
    """
    from featcache.cache.schema import feature_arrays

    plain = Shapes(
        layers=tuple(a.model_copy(update={"std": ()}) for a in shapes.layers),
        pooled=shapes.pooled,
        mask=shapes.mask,
    )
    names = feature_arrays(plain, "float32" if spec.dtype == "int8" else spec.dtype)
    return [name for name in names if not (spec.tokens == "pooled" and name.startswith("tokens"))]


def key_of(view: str, array: str) -> str:
    """Return the key of an array in one view.

    >>> key_of("eval", "pooled"), key_of("weak0", "tokens")
    ('pooled', 'weak0_tokens')
    """
    return array if view == "eval" else f"{view}_{array}"


def digest(columns: Columns, done: Callable[[int], object] = lambda rows: None) -> str:
    """Return the SHA-256 (hex) of the values of all columns but the labels, whatever file they are in."""
    total = hashlib.sha256()
    for key in sorted(set(columns) - {"labels"}):
        column = columns[key]
        own = hashlib.sha256(key.encode())
        for start, stop in column.pieces():
            values = column.read(start, stop)
            own.update(json.dumps(values).encode() if column.kind == "string" else _bytes(values, column))
        total.update(own.digest())
        done(column.rows)
    return total.hexdigest()


def _bytes(values: Any, column: Column) -> bytes:
    kind = "float32" if column.kind == "bfloat16" else column.kind
    dtype = np.dtype(kind if kind in FLOATS else {"bool": "bool"}.get(kind, "int64"))
    return np.ascontiguousarray(np.asarray(values, dtype)).tobytes()
