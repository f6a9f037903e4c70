"""Open the replay cache, whose samples of the encoder's own domain are mixed into batches."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.cache.identity import require_same
from featcache.cache.reader import WRITTEN, CacheReader, SplitReader
from featcache.cache.spec import FeatureSpec, SplitSpec
from featcache.errors import TrainError, option
from featcache.loading.store import FeatureStore

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class ReplayCache:
    """A second cache with the same features as the training's, opened and checked."""

    fingerprint: str
    split: SplitReader
    """The split to read."""
    store: FeatureStore
    rows: Rows
    """Every usable row of `split`, sorted."""
    num_classes: int
    test: SplitReader | None
    """The split to evaluate on, if there is one."""
    test_store: FeatureStore | None

    @classmethod
    def open(
        cls, path: Path, split: str, test: str, *, like: FeatureSpec, held_out: SplitSpec | None
    ) -> ReplayCache:
        """Open the cache at `path`, whose features must equal `like`; its views may differ.

        Raises CacheMismatch with the field that differs, and CacheError if the split is missing or not
        complete. Raises TrainError if its rows are those of `held_out` or `test`, which are for tests only.
        """
        cache = CacheReader.open(path)
        require_same(
            path,
            cache.features(like.layer),
            like,
            by="in the training's cache",
            hint=f"extract both with the same {option('model')}, {option('tokens')} and {option('layers')}",
        )
        read = cache.split(split)
        read.check()
        judged = cache.split(test) if test in cache.split_names else None
        if read.spec == held_out or split == test:
            raise TrainError(
                "the replay cache would add test rows to the training",
                got=f"{option('data.replay_split', split)} of {path}",
                expected="a split that is not tested on",
                hint=f"choose another with {option('data.replay_split')}",
            )
        if judged is not None:
            judged.check()
        rows = np.flatnonzero((read.status == WRITTEN).all(1))
        if not len(rows):
            raise TrainError(f"the split `{split}` of {path} has no readable row")
        return cls(
            cache.fingerprint,
            read,
            FeatureStore.open(cache, split, like.layer),
            rows,
            len(cache.class_names),
            judged,
            FeatureStore.open(cache, test, like.layer) if judged is not None else None,
        )

    def record(self) -> dict[str, Any]:
        """Return the identity of the cache, for the configuration of a run."""
        splits = [self.split, *([self.test] if self.test else [])]
        return {"cache": self.fingerprint, "splits": {s.name: s.spec.model_dump() for s in splits}}
