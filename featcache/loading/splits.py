"""Draw the labelled rows of a training split: seeded, stratified and nested. No I/O.

This module also draws unknown classes, missing classes and long tails. These have their own streams of random
numbers, so that they do not change the labelled rows of a seed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from featcache.errors import TrainError, option
from featcache.sources.base import UNLABELLED

Rows = NDArray[np.int64]
_CLASSES, _RANKS, _TAIL = 1, 2, 3
"""Numbers of the random streams, besides those of the labels."""


@dataclass(frozen=True)
class LabelSplit:
    """Sorted row numbers of the training split: labelled rows and unlabelled rows."""

    labelled: Rows
    unlabelled: Rows
    """Every usable row, including the labelled ones; used without labels."""


@dataclass(frozen=True)
class Classes:
    """The classes of a task, as sorted class numbers of the cache."""

    known: Rows
    """The classes of the task: class `known[i]` of the cache is class i of the task."""
    unknown: Rows
    """Classes that are no part of the task; their rows are unlabelled and not tested."""
    missing: Rows
    """Known classes without a labelled row."""

    def numbered(self, labels: NDArray[np.int64]) -> NDArray[np.int64]:
        """Renumber labels for the task; UNLABELLED for a row of no known class.

        >>> Classes(np.array([0, 2]), np.array([1]), np.array([2])).numbered(np.array([2, 1, 0, -1]))
        array([ 1, -1,  0, -1])
        """
        if not len(self.known):
            return np.full(len(labels), UNLABELLED)
        place: Rows = np.searchsorted(self.known, labels).clip(max=len(self.known) - 1)
        return np.where(self.known[place] == labels, place, UNLABELLED)


def choose_classes(classes: int, *, unknown: int = 0, missing: int = 0, seed: int) -> Classes:
    """Draw the unknown and the missing classes; drawing more only adds classes.

    Raises TrainError if fewer than two classes would have labels.

    >>> [len(part) for part in vars(choose_classes(9, unknown=3, missing=2, seed=0)).values()]
    [6, 3, 2]
    """
    if unknown + missing and classes - unknown - missing < 2:
        raise TrainError(
            "too few classes would have labels",
            got=f"{unknown} unknown and {missing} missing of {classes} classes",
            expected="at least two classes with labels",
            hint=f"leave out at most {max(0, classes - 2)} classes",
        )
    order = np.random.default_rng([seed, 0, _CLASSES]).permutation(classes)
    # Taken from both ends, so that the unknown classes do not depend on the number of missing ones.
    return Classes(
        known=np.sort(order[unknown:]),
        unknown=np.sort(order[:unknown]),
        missing=np.sort(order[classes - missing :]),
    )


def draw_labels(
    labels: NDArray[np.int64],
    class_names: Sequence[str],
    *,
    seed: int,
    labels_per_class: int | None = None,
    num_labels: int | None = None,
    usable: NDArray[np.bool_] | None = None,
    without: Collection[int] = (),
) -> LabelSplit:
    """Draw a labelled set: `labels_per_class` of each class, `num_labels` in proportion, or all labels.

    Draws with one seed are nested: drawing more labels per class only adds rows. Rows that are not `usable`
    (failed in extraction) are in neither set. Classes in `without` get no label, which does not change the
    draws of the others. Raises TrainError if a class has too few labels, or if only one class has any.

    >>> labels = np.array([0, 0, 0, 1, 1, -1])
    >>> draw_labels(labels, ("cat", "dog"), seed=0, labels_per_class=1).labelled.size
    2
    """
    usable = np.ones(len(labels), bool) if usable is None else usable
    asked = [c for c in range(len(class_names)) if c not in without]
    pools = [np.flatnonzero(usable & (labels == c)) for c in asked]
    sizes = np.array([len(pool) for pool in pools], np.int64)
    if sizes.sum() == 0:
        raise TrainError(
            "the training split has no labels to draw from",
            got=f"{len(labels)} rows, {usable.sum()} usable, {(labels != UNLABELLED).sum()} labelled",
            hint=f"give a table of labels ({option('labels', 'FILE')}), or extract a source with labels "
            f"({option('label_column')} for a table)",
        )
    if np.count_nonzero(sizes) == 1:
        raise TrainError(
            "only one class has labels",
            got=f"{sizes.sum()} samples of `{class_names[asked[int(sizes.argmax())]]}`",
            expected="labelled samples of at least two classes",
            hint="label samples of other classes",
        )
    wanted = _per_class(sizes, [class_names[c] for c in asked], labels_per_class, num_labels)
    order = [np.random.default_rng([seed, c]).permutation(pool) for c, pool in zip(asked, pools, strict=True)]
    labelled = np.concatenate([pool[:n] for pool, n in zip(order, wanted, strict=True)])
    return LabelSplit(np.sort(labelled), np.flatnonzero(usable))


def set_aside(ids: Sequence[str], labels: NDArray[np.int64], share: float) -> NDArray[np.bool_]:
    """Choose labelled samples to set aside: about `share` of them, at most all but one of each class.

    The choice depends on the sample id alone, so samples that are set aside once stay so when labels are
    added. The one exception is the sample of a class that would be its last.

    >>> set_aside(["a", "b", "c", "d"], np.array([0, 0, 0, -1]), 0.99).tolist()
    [False, True, True, False]
    """
    place = [int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) / 2**64 for name in ids]
    rank = np.where(labels >= 0, place, np.inf)
    chosen = rank < share
    for c in np.unique(labels[labels >= 0]):
        rows = np.flatnonzero(labels == c)
        if chosen[rows].all():
            chosen[rows[rank[rows].argmax()]] = False
    return np.asarray(chosen)


def long_tail(split: LabelSplit, labels: NDArray[np.int64], *, ratio: float, seed: int) -> LabelSplit:
    """Remove unlabelled rows until the most frequent class has `ratio` times the rows of the rarest.

    The seed draws the order of the classes. All labelled rows are kept. Rows of unknown class are removed.

    >>> labels = np.repeat([0, 1], 50)
    >>> thin = long_tail(LabelSplit(np.array([0, 99]), np.arange(100)), labels, ratio=10, seed=0)
    >>> sorted(np.bincount(labels[thin.unlabelled]).tolist())
    [5, 50]
    """
    if ratio == 1:
        return split
    present, sizes = np.unique(labels[split.unlabelled], return_counts=True)
    present, sizes = present[present != UNLABELLED], sizes[present != UNLABELLED]
    rank = np.random.default_rng([seed, 0, _RANKS]).permutation(len(present))
    kept = []
    for c, size in zip(present, tail_sizes(sizes, rank, ratio), strict=True):
        pool = split.unlabelled[labels[split.unlabelled] == c]
        pool = np.random.default_rng([seed, c, _TAIL]).permutation(pool)
        own = np.isin(pool, split.labelled)
        kept.append(np.concatenate([pool[own], pool[~own]])[: max(size, own.sum())])
    return LabelSplit(split.labelled, np.sort(np.concatenate(kept)))


def tail_sizes(sizes: NDArray[np.int64], rank: NDArray[np.int64], ratio: float) -> NDArray[np.int64]:
    """Compute the class sizes of a long tail: n_c = n_max ratio^(-rank_c / (C - 1)).

    n_max is the largest number with n_c <= `sizes`. Results are rounded down, but not to 0. `sizes` (C,) are
    above 0, and `rank` (C,) is a permutation with 0 for the most frequent class.

    Source: Cui et al., arXiv 1901.05555, section 5.1.

    >>> tail_sizes(np.array([100, 100, 100]), np.array([1, 0, 2]), 100.0)
    array([ 10, 100,   1])
    """
    share = ratio ** (-rank / max(1, len(sizes) - 1))
    exact = (sizes / share).min() * share
    # The factor keeps floor from losing one where rounding errors made a whole number smaller.
    counts: Rows = np.maximum(1, np.floor(exact * (1 + 1e-12))).astype(np.int64)
    return counts


def _per_class(
    sizes: NDArray[np.int64], class_names: Sequence[str], labels_per_class: int | None, num_labels: int | None
) -> NDArray[np.int64]:
    if labels_per_class is None and num_labels is None:
        return sizes
    if labels_per_class is not None and num_labels is not None:
        raise TrainError(
            f"give at most one of {option('labels_per_class')} and {option('num_labels')}",
            got=f"labels per class: {labels_per_class}, number of labels: {num_labels}",
            expected="either the labels of each class, or the labels in all",
        )
    if labels_per_class is not None:
        _refuse_too_few(sizes, class_names, labels_per_class)
        return np.full_like(sizes, labels_per_class)
    assert num_labels is not None
    if not 1 <= num_labels <= sizes.sum():
        raise TrainError(
            "cannot draw that many labels",
            got=option("num_labels", num_labels),
            expected=f"1 to {sizes.sum()}, the labelled samples of the training split",
        )
    return _proportional(sizes, num_labels)


def _refuse_too_few(sizes: NDArray[np.int64], class_names: Sequence[str], wanted: int) -> None:
    smallest = int(sizes.argmin())
    if wanted < 1 or sizes[smallest] < wanted:
        raise TrainError(
            f"cannot draw that many labels of the class `{class_names[smallest]}`",
            got=f"{option('labels_per_class', wanted)}, and the class has {sizes[smallest]}",
            expected="at least 1, and at most the number of samples of each class",
            hint=f"ask for fewer, or use {option('num_labels')}, which draws in proportion to the classes",
        )


def _proportional(sizes: NDArray[np.int64], total: int) -> NDArray[np.int64]:
    """Distribute `total` by largest remainders; each non-empty class gets one if `total` allows it."""
    one_each = total >= np.count_nonzero(sizes)
    floor = np.minimum(sizes, int(one_each))
    share = (sizes - floor) * ((total - floor.sum()) / max(1, (sizes - floor).sum()))
    counts: NDArray[np.int64] = floor + np.floor(share).astype(np.int64)
    remainder = share - np.floor(share)
    for c in np.argsort(-remainder, kind="stable")[: total - counts.sum()]:
        counts[c] += 1
    return counts
