"""The plan of an import: what will be written, whatever it was read from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from featcache.cache.create import Samples
from featcache.cache.labels import LabelTable
from featcache.cache.quantise import Quantised
from featcache.cache.spec import CacheSpec, LayoutSpec, Shapes, SplitSpec


class Batch(NamedTuple):
    """Rows of one view, as a cache takes them."""

    tokens: Mapping[int, NDArray[Any] | Quantised]
    """(n, T, D) by layer."""
    pooled: NDArray[Any]
    mask: NDArray[np.bool_] | None
    failed: Mapping[int, str]
    """The reason, by row of the split."""


class ReadBatch(Protocol):
    """Reads the rows [start, stop) of one view of a split."""

    def __call__(self, view: int, start: int, stop: int) -> Batch: ...


@dataclass(frozen=True)
class ImportedSplit:
    """One split, ready to be written."""

    spec: SplitSpec
    ids: list[str]
    labels: NDArray[np.int64]
    read: ReadBatch
    step: int
    """Rows to read at a time."""
    empty: int = 0
    """Samples without a token, which are marked as failed."""
    samples: Samples = None
    """(N,) digests of the content of each sample, if they are known."""


@dataclass(frozen=True)
class ImportPlan:
    """Everything that is decided before the first row is written."""

    spec: CacheSpec
    shapes: Shapes
    class_names: tuple[str, ...]
    splits: Mapping[str, ImportedSplit]
    provenance: Mapping[str, Any]
    keys: Mapping[str, str]
    """Which array was taken for what."""
    longest: int
    """Tokens of the longest sample, before some were left out."""
    class_text: tuple[NDArray[np.float32], list[str], list[str]] | None = None
    """Embeddings of class names, the names, and their templates."""
    chosen: int = 0
    """Labels whose samples `suggest` chose."""
    layout: LayoutSpec | None = None
    """Shards of a new cache; None for the default."""
    restored: bool = False
    """True for an export of featcache, which says all of this itself."""

    @property
    def labels(self) -> LabelTable:
        """The labels of all splits."""
        by_split = {name: split.labels for name, split in self.splits.items()}
        return LabelTable(self.class_names, by_split, self.chosen)
