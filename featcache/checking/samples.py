"""All readable samples of a cache side by side, with their labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from featcache.cache.codec import from_bfloat16
from featcache.cache.labels import LabelTable
from featcache.cache.reader import WRITTEN, CacheReader, SplitReader
from featcache.errors import CacheError

Ints = NDArray[np.int64]


class Sample(NamedTuple):
    """One sample, as a person knows it."""

    split: str
    id: str
    label: str | None
    """The name of its class; None without a label."""


@dataclass(frozen=True)
class Samples:
    """The N samples that are readable in the evaluation view, split by split."""

    splits: tuple[SplitReader, ...]
    split: Ints
    """(N,) the number of the split."""
    row: Ints
    """(N,) the row in it."""
    label: Ints
    """(N,) class index, or -1."""
    class_names: Sequence[str]

    @classmethod
    def of(cls, cache: CacheReader, table: LabelTable) -> Self:
        """Take the samples of all splits, with the labels of a table.

        Raises CacheError if there is no split, or if one is not complete.
        """
        splits = tuple(cache.split(name) for name in cache.split_names)
        if not splits:
            hint = "rerun its `featcache extract` command"
            raise CacheError(f"the cache {cache.storage} has no split yet", hint=hint)
        for part in splits:
            part.check()
        rows = [np.flatnonzero(part.status[:, 0] == WRITTEN) for part in splits]
        labels = [table.of(part.name, part.rows)[own] for part, own in zip(splits, rows, strict=True)]
        number = np.repeat(np.arange(len(splits)), [len(own) for own in rows])
        return cls(splits, number, np.concatenate(rows), np.concatenate(labels), table.class_names)

    def __len__(self) -> int:
        return len(self.row)

    def read(self, positions: Ints) -> NDArray[np.float32]:
        """Read the pooled embeddings (n, P) of samples, in any order."""
        found: NDArray[np.float32] | None = None
        for number, part in enumerate(self.splits):
            mine = np.flatnonzero(self.split[positions] == number)
            array = part.array("pooled")
            values = array.gather(self.row[positions[mine]], 0)
            array.finish_checks()
            plain = from_bfloat16(values) if array.bfloat16 else values.astype(np.float32)
            if found is None:
                found = np.empty((len(positions), plain.shape[1]), np.float32)
            found[mine] = plain
        assert found is not None
        return found

    def sample(self, position: int) -> Sample:
        """Return one sample by its position."""
        part, label = self.splits[self.split[position]], int(self.label[position])
        name = None if label < 0 else self.class_names[label]
        return Sample(part.name, part.ids[self.row[position]], name)
