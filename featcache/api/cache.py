"""The public classes of a cache and its splits."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from featcache.api.html import facts_table
from featcache.batch import Features
from featcache.cache.codec import from_bfloat16
from featcache.cache.reader import FAILED, WRITTEN, CacheReader, SplitReader
from featcache.config import did_you_mean, whole_number
from featcache.devices import resolve
from featcache.errors import ConfigError
from featcache.files import human_bytes
from featcache.loading.loader import Loader, Stream
from featcache.loading.plan import EpochPlan
from featcache.loading.store import FeatureStore


@dataclass(frozen=True, repr=False, eq=False)
class SplitBatch:
    """Rows of a split as tensors, which remain valid when the next batch is read.

    `batch["weak"]` are the features of a view, by the name that was requested.
    """

    rows: NDArray[np.int64]
    """(B,) row numbers in the split, sorted."""
    labels: Tensor
    """(B,) int64 class index, or -1."""
    views: tuple[str, ...]
    """The names of the views that were requested."""
    features: tuple[Features, ...]
    """The features of each of `views`."""

    def __getitem__(self, view: str) -> Features:
        if view not in self.views:
            raise KeyError(f"the batch has no view {view!r}, but {', '.join(self.views)}")
        return self.features[self.views.index(view)]

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return f"<SplitBatch of {len(self)} rows, views {', '.join(self.views)}>"


class Split(SplitReader):
    """One split of a cache: its samples in the order of the source.

    >>> from tempfile import TemporaryDirectory
    >>> from featcache.stages.extract import extract
    >>> with TemporaryDirectory() as folder:
    ...     cache = extract("digits", "open_clip:glyph-clip", f"{folder}/c.zarr", limit=8, tokens="grid:4x4")
    ...     print(cache["test"])
    ...     sizes = [len(batch) for batch in cache["test"].batches(3, shuffle=0)]
    ...     sizes, cache["test"].embeddings().shape
    <Split test: 8 rows, 8 labelled, 10 classes, views eval>
    ([3, 3, 2], (8, 128))
    """

    def __init__(self, cache: CacheReader, name: str) -> None:
        super().__init__(cache.storage, name, cache.spec.views.names())
        self.cache = cache

    def __reduce__(self) -> tuple[Any, ...]:
        return Split, (self.cache, self.name)

    def __len__(self) -> int:
        return self.rows

    def __repr__(self) -> str:
        return f"<Split {self.name}: {self.describe()}, views {', '.join(self.views)}>"

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(repr(self))}</p>"

    def describe(self) -> str:
        """Count rows, labels, failed rows and classes in one line."""
        failed = int((self.status == FAILED).any(1).sum())
        return (
            f"{self.rows} rows, {int((self.labels >= 0).sum())} labelled, "
            + (f"{failed} failed, " if failed else "")
            + f"{len(self.class_names)} classes"
            + ("" if self.complete() else ", not complete")
        )

    def view(self, name: str) -> int:
        """Return the number of a view; raises ConfigError, listing the views, for another name."""
        found = name if name in self.views else f"{name}0"
        if found not in self.views:
            raise ConfigError(
                "the cache holds no such view", got=name, hint=did_you_mean(str(name), self.views)
            )
        return self.views.index(found)

    def embeddings(self, view: str = "eval") -> NDArray[np.float32]:
        """Read the frozen model's pooled embeddings of one view: (N, P) float32, zeros for failed rows."""
        self.check()
        array = self.array("pooled")
        found = array.gather(np.arange(self.rows), self.view(view))
        array.finish_checks()
        return from_bfloat16(found) if array.bfloat16 else found.astype(np.float32)

    def batches(
        self,
        size: int,
        views: str | Sequence[str] = ("eval",),
        *,
        shuffle: int | None = None,
        layer: int | None = None,
        device: str = "cpu",
        drop_last: bool = False,
    ) -> Iterator[SplitBatch]:
        """Yield every row once, `size` rows at a time, as tensors for your own training loop.

        `views` are names of cached views (`weak0`) or of families (`weak`), of which each batch draws one
        view. If a family is named twice, its two views are different, if two are cached. `shuffle` is the
        seed of the order; None keeps the order of the source. Within a batch, rows are sorted. Rows that
        failed in extraction are left out. int8 tokens become float32; other types are not converted.

        A thread reads ahead. Raises CacheError if the split is not complete, and ConfigError or TrainError
        for an argument that is not valid.
        """
        asked = (views,) if isinstance(views, str) else tuple(views)
        size, seed = whole_number("size", size), None if shuffle is None else whole_number("shuffle", shuffle)
        if size < 1 or not asked or (seed is not None and seed < 0):
            got = f"size {size}, views {list(asked)}, shuffle {seed}"
            expected = "at least one row and one view, and a seed of 0 or more"
            raise ConfigError("these batches cannot be read", got=got, expected=expected)
        self.check()
        rows = np.flatnonzero((self.status == WRITTEN).all(1))
        plan = EpochPlan(rows, size, seed=seed or 0, shuffled=seed is not None)
        stream = Stream(FeatureStore.open(self.cache, self.name, layer), plan, asked)
        stream.wanted(0)  # so that an unknown view is refused here, and not in the loop
        loader = Loader(stream, self.labels, device=resolve(device))
        return _batches(loader, plan, asked, len(rows) // size if drop_last else len(plan))


def _batches(loader: Loader, plan: EpochPlan, views: tuple[str, ...], count: int) -> Iterator[SplitBatch]:
    with closing(loader.steps(0, count)) as steps:
        for step, batch in enumerate(steps):
            features = tuple(part.copy() for part in batch.labelled)
            label = batch.label.to(torch.int64, copy=True)
            yield SplitBatch(plan.rows[plan.positions(step)], label, views, features)


class Cache(CacheReader):
    """A cache on disk. `cache["train"]` is a split; iteration yields the names of the splits."""

    def split(self, name: str) -> Split:
        """Open one split; raises CacheError, listing the splits, for another name."""
        return Split(self, super().split(name).name)

    def __getitem__(self, name: str) -> Split:
        return self.split(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.split_names)

    def __contains__(self, name: object) -> bool:
        return name in self.split_names

    @property
    def splits(self) -> tuple[str, ...]:
        """The names of the splits, sorted."""
        return self.split_names

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names, by label."""
        return self.class_names

    def __repr__(self) -> str:
        parts = "\n  ".join(f"{name}: {text}" for name, text in self._facts().items())
        return f"<Cache {self.storage}>\n  {parts}"

    def _repr_html_(self) -> str:
        return facts_table(f"Cache {self.storage}", self._facts())

    def _facts(self) -> dict[str, str]:
        shapes = (
            f"layer {layer.layer}: {layer.tokens} x {layer.dim} {self.spec.dtype}"
            for layer in self.shapes.layers
        )
        return {
            "model": self.spec.encoder.name,
            "views": ", ".join(self.spec.views.names()),
            "tokens": "; ".join(shapes),
            "pooled": str(self.shapes.pooled),
            "classes": str(len(self.class_names)),
            "size": human_bytes(self.nbytes()),
            **{name: self.split(name).describe() for name in self.described},
            **dict.fromkeys(self.undescribed, "damaged, or never finished"),
        }
