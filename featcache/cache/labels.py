"""The labels of a cache: a table beside the samples, replaced as a whole and never part of their identity."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from featcache import seal
from featcache.cache import zarr_files
from featcache.cache.description import LabelsDescription, parsed
from featcache.cache.storage import Storage
from featcache.cache.zarr_files import METADATA, attributes_of, encode, group, under
from featcache.errors import CacheError

LABELS = "labels"
"""Name of the group of the labels, which no split may have."""
_TABLE = 16
"""Characters of the digest that name the folder of a table."""

Labels = NDArray[np.int64]


@dataclass(frozen=True)
class LabelTable:
    """Class names, and the class of each labelled sample, by split."""

    class_names: tuple[str, ...] = ()
    by_split: Mapping[str, Labels] = field(default_factory=dict)
    """(N,) class index or -1, by split."""
    chosen: int = 0
    """Number of labels whose samples were chosen by `suggest`, and not drawn at random; at least so many
    after an update."""

    def digest(self, splits: Iterable[str] | None = None) -> str:
        """Return the SHA-256 (hex) of class names and labels, of some splits or of all."""
        names = sorted(self.by_split if splits is None else splits)
        sha = hashlib.sha256(json.dumps([self.class_names, names]).encode())
        for name in names:
            sha.update(np.ascontiguousarray(self.by_split[name], "<i8").tobytes())
        return sha.hexdigest()

    def of(self, split: str, rows: int) -> Labels:
        """Return the labels of a split with so many rows; it is unlabelled if the table does not hold it."""
        return self.by_split[split] if split in self.by_split else np.full(rows, -1)

    def counts(self, split: str) -> dict[str, int]:
        """Return the number of labelled samples of a split by class name, in the order of the classes."""
        labels = self.by_split[split]
        found = np.bincount(labels[labels >= 0], minlength=len(self.class_names))
        return dict(zip(self.class_names, found.tolist(), strict=True))

    def changes(self, other: LabelTable, split: str) -> int:
        """Count the samples of a split whose class name differs in `other`; 0 if a table lacks the split.

        Samples that only one of them has do not count.

        >>> old = LabelTable(("a", "b"), {"train": np.array([0, 1, -1])})
        >>> old.changes(LabelTable(("b",), {"train": np.array([-1, 0, 0])}), "train")
        2
        """
        if split not in self.by_split or split not in other.by_split:
            return 0
        # The last name is where the index -1 leads.
        mine, theirs = (
            np.array([*table.class_names, None], object)[table.by_split[split]] for table in (self, other)
        )
        both = min(len(mine), len(theirs))
        return int((mine[:both] != theirs[:both]).sum())

    def merged(self, new: LabelTable) -> LabelTable:
        """Return this table with the splits of `new` instead of its own.

        A split keeps its labels if `new` has no label at all. Classes keep their order if `new` adds none.

        >>> old = LabelTable(("a", "b"), {"train": np.array([0, 1]), "test": np.array([1])})
        >>> both = old.merged(LabelTable(("c", "a"), {"train": np.array([0, -1])}))
        >>> both.class_names, both.by_split["train"].tolist(), both.by_split["test"].tolist()
        (('c', 'a', 'b'), [0, -1], [2])
        """
        if not any((labels >= 0).any() for labels in new.by_split.values()):
            kept = {name: labels for name, labels in new.by_split.items() if name not in self.by_split}
            return LabelTable(self.class_names or new.class_names, {**self.by_split, **kept}, self.chosen)
        others = {name: labels for name, labels in self.by_split.items() if name not in new.by_split}
        used = {c for labels in others.values() for c in np.unique(labels[labels >= 0]).tolist()}
        names = new.class_names
        if used and {*names} <= {*self.class_names}:
            names = self.class_names
        names = (*names, *(self.class_names[c] for c in sorted(used) if self.class_names[c] not in names))
        return LabelTable(
            names,
            {
                **{name: renumbered(labels, self.class_names, names) for name, labels in others.items()},
                **{name: renumbered(labels, new.class_names, names) for name, labels in new.by_split.items()},
            },
            new.chosen,
        )


def renumbered(labels: Labels, own: tuple[str, ...], names: tuple[str, ...]) -> Labels:
    """Renumber labels from the order of `own` to that of `names`; a class that `names` lacks becomes -1.

    >>> renumbered(np.array([0, 1, -1]), ("a", "b"), ("b", "c", "a")).tolist()
    [2, 0, -1]
    """
    place = {name: index for index, name in enumerate(names)}
    # The last entry is where the index -1 leads.
    return np.array([*(place.get(name, -1) for name in own), -1], np.int64)[labels]


def read(cache: Storage) -> LabelTable | None:
    """Return the current table of a cache; None if it has none, as caches of format 1.

    Raise CacheError if the table is damaged.
    """
    for _ in range(2):  # another process may replace the table while it is read
        data = cache.read(f"{LABELS}/{METADATA}")
        zarr_files.require_whole(cache.below(LABELS), data, own=True)
        if (pointer := attributes_of(data)) is None:
            return None
        about = parsed(LabelsDescription, pointer, cache.below(LABELS))
        names, table = tuple(about.class_names), cache.below(f"{LABELS}/{about.table}")
        try:
            arrays = {
                split: np.asarray(zarr_files.decode(table.below(split)), np.int64) for split in about.splits
            }
        except CacheError:
            continue
        # Zarr takes a missing file for fill values, so only the digest shows that one is lost.
        if (found := LabelTable(names, arrays, about.chosen)).digest() == about.content:
            return found
    raise CacheError(
        f"the labels of {cache} are damaged",
        got=f"other values than those that were written, in {table}",
        hint="write them again: `featcache label CACHE --from FILE`, or repeat `featcache extract`",
    )


def digest_at(cache: Storage) -> str | None:
    """Return the beginning of the digest of a table that may be damaged; None if it is not known."""
    data = cache.read(f"{LABELS}/{METADATA}")
    if data is not None and seal.is_whole(data) and (pointer := attributes_of(data)) is not None:
        return str(pointer.get("digest"))
    tables = [name for name in cache.names(LABELS) if re.fullmatch(rf"[0-9a-f]{{{_TABLE}}}", name)]
    return tables[0] if len(tables) == 1 else None


def write(cache: Storage, table: LabelTable) -> None:
    """Replace the table of a cache, whose lock the caller holds.

    After a kill, readers find the old table or the new one, never a part of one.
    """
    labels, digest = cache.below(LABELS), table.digest()
    name = digest[:_TABLE]
    files = group({})
    for split, values in sorted(table.by_split.items()):
        shape = values.shape
        array = encode(
            values, shape=shape, chunks=shape, dtype="int64", fill_value=-1, dimension_names=("sample",)
        )
        files |= under(split, array)
    labels.below(name).write(files)
    about = {
        "table": name,
        "digest": digest,
        "class_names": list(table.class_names),
        "chosen": table.chosen,
        "splits": sorted(table.by_split),
    }
    labels.write(group(about))
    for other in labels.names():
        if other not in (name, "zarr.json"):
            labels.delete(other)
