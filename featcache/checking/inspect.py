"""Put the parts of a check together: samples and labels in, findings out."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from featcache.checking.doubtful import doubts, fits, held_out
from featcache.checking.findings import Doubtful, Failed, Findings, Group
from featcache.checking.neighbours import Pairs, near_pairs, rounding_of
from featcache.checking.samples import Samples
from featcache.labels.names import alike
from featcache.progress import MakeProgress
from featcache.training.held_out import HeldOut

Ints = NDArray[np.int64]
LEAST = 10
"""Fewest labels to judge: with fewer, every fold lacks whole classes."""


@dataclass(frozen=True)
class Judged:
    """Labelled samples with the log-probabilities of models that did not see their labels."""

    position: Ints
    """(n,) positions among the samples."""
    log_probs: NDArray[np.float64]
    """(n, k)."""
    classes: Ints
    """(k,) class indices of the columns."""


def inspect(
    samples: Samples, held: Judged | None, *, near: float, notes: tuple[str, ...] = (), show: MakeProgress
) -> Findings:
    """Check samples and their labels; without `held`, the linear probe is cross-validated for it.

    `notes` are sentences on how the labels were read.
    """
    labels = samples.label[samples.label >= 0]
    with show("comparing", len(samples)) as bar:
        dtype = samples.splits[0].array("pooled")
        rounding = rounding_of("bfloat16" if dtype.bfloat16 else str(dtype.dtype))
        pairs = near_pairs(samples.read, len(samples), near=near, rounding=rounding, done=bar.update)
    member = _linked(pairs, len(samples))
    if held is None:
        held = _cross_validated(samples, member, show)
    if held is None:
        few = f"that takes {LEAST} of them, and two classes with two different samples"
        notes = (*notes, f"labels were not judged: {few}")
    counts = Counter(labels.tolist())
    single = {name: counts[c] for c, name in enumerate(samples.class_names) if counts[c] < 2}
    return Findings(
        samples=len(samples),
        labelled=len(labels),
        judged=0 if held is None else len(held.position),
        doubtful=() if held is None else _doubtful(samples, held),
        groups=_groups(samples, pairs, member),
        failed=tuple(
            Failed(part.name, part.ids[row], reason)
            for part in samples.splits
            for row, reason in part.failures().items()
        ),
        few=single,
        alike=alike(samples.class_names),
        notes=notes,
    )


def from_run(
    samples: Samples, split: str, held: HeldOut, class_names: tuple[str, ...]
) -> tuple[Samples, Judged]:
    """Return the samples with the labels of a run, and the run's own held-out predictions of them.

    `split` is the run's training split, `class_names` those of its task.
    """
    names = (*samples.class_names, *(name for name in class_names if name not in samples.class_names))
    classes = np.array([names.index(name) for name in class_names], np.int64)
    number = [part.name for part in samples.splits].index(split)
    place = np.full(samples.splits[number].rows, -1)
    mine = np.flatnonzero(samples.split == number)
    place[samples.row[mine]] = mine
    position = place[held.row]
    known = (position >= 0) & np.isfinite(held.log_probs).all(1)
    labels = samples.label.copy()
    labels[position[position >= 0]] = classes[held.label[position >= 0]]
    return replace(samples, label=labels, class_names=names), Judged(
        position[known], held.log_probs[known], classes
    )


def _cross_validated(samples: Samples, member: Ints, show: MakeProgress) -> Judged | None:
    """Judge the labels of classes with two different samples; None if there are too few."""
    labelled = np.flatnonzero(samples.label >= 0)
    different = np.unique(np.stack([samples.label[labelled], member[labelled]]), axis=1)[0]
    classes, counts = np.unique(different, return_counts=True)
    classes = classes[counts > 1]
    position = labelled[np.isin(samples.label[labelled], classes)]
    if len(position) < LEAST or len(classes) < 2:
        return None
    label = np.searchsorted(classes, samples.label[position])
    with show("judging labels", fits(len(position)), "fits") as bar:
        log_probs = held_out(
            lambda rows: samples.read(position[rows]),
            label,
            member[position],
            classes=len(classes),
            done=bar.update,
        )
    return Judged(position, log_probs, classes)


def _doubtful(samples: Samples, held: Judged) -> tuple[Doubtful, ...]:
    column = {c: number for number, c in enumerate(held.classes.tolist())}
    given, names = samples.label[held.position].tolist(), samples.class_names
    found = doubts(held.log_probs, np.array([column[c] for c in given], np.int64))
    listed = []
    for at, suggested, doubt in zip(*map(np.ndarray.tolist, found), strict=True):
        split, name, _ = samples.sample(held.position[at])
        other = names[held.classes[suggested]]
        listed.append(Doubtful(split, name, names[given[at]], other, doubt))
    return tuple(listed)


def _linked(pairs: Pairs, count: int) -> Ints:
    """Number the groups of linked samples: (N,) the number of the group of each."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    links = coo_array((np.ones(len(pairs.first)), (pairs.first, pairs.second)), (count, count))
    return np.asarray(connected_components(links, directed=False)[1], np.int64)


def _groups(samples: Samples, pairs: Pairs, member: Ints) -> tuple[Group, ...]:
    """Return the groups of two samples or more: the same before the near, the nearest first."""
    linked = np.unique(np.concatenate([pairs.first, pairs.second]))
    farthest, same = np.zeros(len(member)), np.ones(len(member), bool)
    np.maximum.at(farthest, member[pairs.first], pairs.distance)
    np.logical_and.at(same, member[pairs.first], pairs.same)
    order = linked[np.argsort(member[linked], kind="stable")]
    parts = np.split(order, np.flatnonzero(np.diff(member[order])) + 1) if len(order) else []
    found = [
        Group(
            tuple(samples.sample(position) for position in part.tolist()),
            bool(same[member[part[0]]]),
            float(1 - farthest[member[part[0]]] ** 2 / 2),
        )
        for part in parts
    ]
    return tuple(sorted(found, key=lambda group: (not group.same, -group.cosine)))
