"""Which training rows are labelled: seeded, stratified, nested draws. Pure arithmetic on labels, no I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from featcache.errors import TrainError
from featcache.sources.base import UNLABELLED

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class LabelSplit:
    """Row numbers of the training split, sorted: those whose label is used, and those seen without one."""

    labelled: Rows
    unlabelled: Rows
    """Every usable row, the labelled ones included (their label is not looked at)."""


def draw_labels(
    labels: NDArray[np.int64],
    class_names: Sequence[str],
    *,
    seed: int,
    labels_per_class: int | None = None,
    num_labels: int | None = None,
    usable: NDArray[np.bool_] | None = None,
) -> LabelSplit:
    """Draw a labelled set: `labels_per_class` of each class, or `num_labels` in proportion to the classes.

    Draws with one seed are nested: more labels per class only adds rows. Rows that are not `usable` (failed
    in extraction) are in neither set. Raises TrainError when a class has too few labels, or fewer
    than two classes have any.

    >>> labels = np.array([0, 0, 0, 1, 1, -1])
    >>> draw_labels(labels, ("cat", "dog"), seed=0, labels_per_class=1).labelled.size
    2
    """
    usable = np.ones(len(labels), bool) if usable is None else usable
    pools = [np.flatnonzero(usable & (labels == c)) for c in range(len(class_names))]
    sizes = np.array([len(pool) for pool in pools], np.int64)
    if sizes.sum() == 0:
        raise TrainError(
            "this training split has no labels to draw from",
            got=f"{len(labels)} rows, {usable.sum()} usable, {(labels != UNLABELLED).sum()} labelled",
            hint="extract a source with labels (--label-column for a table), or check the failed rows",
        )
    if np.count_nonzero(sizes) == 1:
        raise TrainError(
            "only one class has labels, so there is nothing to tell apart",
            got=f"{sizes.sum()} samples of `{class_names[int(sizes.argmax())]}`",
            expected="labelled samples of two classes at least",
            hint="extract a training split that holds the other classes too",
        )
    wanted = _per_class(sizes, class_names, labels_per_class, num_labels)
    order = [np.random.default_rng([seed, c]).permutation(pool) for c, pool in enumerate(pools)]
    labelled = np.concatenate([pool[:n] for pool, n in zip(order, wanted, strict=True)])
    return LabelSplit(np.sort(labelled), np.flatnonzero(usable))


def _per_class(
    sizes: NDArray[np.int64], class_names: Sequence[str], labels_per_class: int | None, num_labels: int | None
) -> NDArray[np.int64]:
    if (labels_per_class is None) == (num_labels is None):
        raise TrainError(
            "say how many labels to use, in one way",
            got=f"labels per class: {labels_per_class}, number of labels: {num_labels}",
            expected="--labels-per-class N (N of each class) or --num-labels N (N in all)",
        )
    if labels_per_class is not None:
        _refuse_too_few(sizes, class_names, labels_per_class)
        return np.full_like(sizes, labels_per_class)
    assert num_labels is not None
    if not 1 <= num_labels <= sizes.sum():
        raise TrainError(
            "cannot draw that many labels",
            got=f"--num-labels {num_labels}",
            expected=f"1 to {sizes.sum()}, the labelled samples of the training split",
        )
    return _proportional(sizes, num_labels)


def _refuse_too_few(sizes: NDArray[np.int64], class_names: Sequence[str], wanted: int) -> None:
    smallest = int(sizes.argmin())
    if wanted < 1 or sizes[smallest] < wanted:
        raise TrainError(
            f"cannot draw that many labels of the class `{class_names[smallest]}`",
            got=f"--labels-per-class {wanted}, where the class has {sizes[smallest]}",
            expected="at least one label, and as many samples in every class",
            hint="ask for fewer labels per class, or use --num-labels for a draw in proportion",
        )


def _proportional(sizes: NDArray[np.int64], total: int) -> NDArray[np.int64]:
    """Largest remainders, after one for each non-empty class where the total allows it."""
    one_each = total >= np.count_nonzero(sizes)
    floor = np.minimum(sizes, int(one_each))
    share = (sizes - floor) * ((total - floor.sum()) / max(1, (sizes - floor).sum()))
    counts: NDArray[np.int64] = floor + np.floor(share).astype(np.int64)
    remainder = share - np.floor(share)
    for c in np.argsort(-remainder, kind="stable")[: total - counts.sum()]:
        counts[c] += 1
    return counts
