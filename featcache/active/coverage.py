"""Choose a batch that covers the samples: uncertain, spread out and typical, in one sum.

    maximise over S, |S| = n:   sum_r w_r max_{s in L + S} exp(-|x_r - x_s|^2 / width)

The x are directions of embeddings, L the labelled samples. Without labels, w = 1 (MaxHerding, arXiv
2407.12212): a sample in the middle of many others covers most. With a classifier, w_r is its uncertainty at r
(UHerding, arXiv 2412.20644): what it knows already counts for nothing. The sum is submodular, so the greedy
choice reaches 63 % of the best one (Nemhauser et al. 1978).

Ours: the width is the squared distance within which a sample has its share of the others, so that it shrinks
as labels are added, without a parameter. The papers use a fixed width, and the least distance between labels.
"""

from __future__ import annotations

import heapq
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from featcache.active.space import Rows, Vectors, squared_distances

SAME = 1e-4
"""Squared distance up to which two samples are near-identical: a cosine of 0.99995."""
_PROBES = 500
_PART = 2048
"""Rows of a table of distances to hold at a time."""


class Batch(NamedTuple):
    """Candidates in the order of their choice."""

    chosen: Rows
    """(k,) positions among the candidates; fewer than asked if the others are near-identical to these."""
    share: NDArray[np.float64]
    """(k,) the part of the sum, 0 to 1, that each one adds."""


def cover(
    reference: Vectors,
    candidates: Vectors,
    labelled: Vectors,
    count: int,
    *,
    weight: NDArray[np.float64] | None = None,
) -> Batch:
    """Choose `count` of the candidates greedily.

    `reference` (R, P) are the samples to cover, `labelled` (L, P) those that cover already; all are
    directions. `weight` (R,) is the uncertainty, and 1 by default. A candidate that is near-identical to a
    labelled or a chosen one is never chosen. Needs 4 R bytes for each candidate.
    """
    width = kernel_width(reference, len(labelled) + count)
    given = np.ones(len(reference)) if weight is None else weight
    # A sure sample still counts more than nothing, so that any batch can be filled.
    weights: Vectors = given.astype(np.float32) + np.float32(1e-6)
    covered = np.zeros(len(reference), np.float32)
    free = np.ones(len(candidates), bool)
    for start in range(0, len(labelled), _PART):
        part = labelled[start : start + _PART]
        np.maximum(covered, _kernel(part, reference, width).max(0), out=covered)
        free &= ~same_as(candidates, part)
    return _greedy(_kernel(candidates, reference, width), covered, weights, free, candidates, count)


def kernel_width(reference: Vectors, samples: int) -> float:
    """Return the median squared distance within which a sample has 1/samples of the reference.

    >>> line = np.stack([np.cos(a := np.linspace(0, 1.5, 100)), np.sin(a)], 1).astype(np.float32)
    >>> kernel_width(line, 2) > 10 * kernel_width(line, 20)
    True
    """
    probes = reference[:: max(1, len(reference) // _PROBES)]
    rank = min(max(1, int(len(reference) / max(1, samples))), len(reference) - 1)
    distances = squared_distances(probes, reference)
    return max(float(np.median(np.partition(distances, rank, axis=1)[:, rank])), 1e-6)


def same_as(candidates: Vectors, others: Vectors) -> NDArray[np.bool_]:
    """Return (C,) True for a candidate that is near-identical to one of the others."""
    found = np.zeros(len(candidates), bool)
    for start in range(0, len(candidates), _PART):
        part = candidates[start : start + _PART]
        found[start : start + _PART] = (squared_distances(part, others) <= SAME).any(1)
    return found


def _kernel(samples: Vectors, reference: Vectors, width: float) -> Vectors:
    near = squared_distances(samples, reference)
    near *= -1 / width
    return np.exp(near, out=near)


def _greedy(
    near: Vectors,
    covered: Vectors,
    weights: Vectors,
    free: NDArray[np.bool_],
    candidates: Vectors,
    count: int,
) -> Batch:
    """Take the candidate with the largest gain, again and again.

    A gain can only shrink as others are chosen. So an old gain is an upper bound, and only candidates at the
    top are computed again (Minoux 1978).
    """
    gains = np.concatenate(
        [np.maximum(part - covered, 0) @ weights for part in np.array_split(near, len(near) // 256 + 1)]
    )
    heap = [(-float(gains[c]), int(c)) for c in np.flatnonzero(free)]
    heapq.heapify(heap)
    chosen: list[int] = []
    shares: list[float] = []
    total = float(weights.sum())
    while heap and len(chosen) < count:
        _, top = heapq.heappop(heap)
        gain = float(np.maximum(near[top] - covered, 0) @ weights)
        if heap and -gain > heap[0][0]:
            heapq.heappush(heap, (-gain, top))
            continue
        if chosen and same_as(candidates[top : top + 1], candidates[chosen])[0]:
            continue
        chosen.append(top)
        shares.append(gain / total)
        covered = np.maximum(covered, near[top])
    return Batch(np.array(chosen, np.int64), np.array(shares))
