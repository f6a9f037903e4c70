"""Find samples whose embeddings are the same or nearly so, without comparing all pairs.

An orthogonal projection V never lengthens a distance: |Vx - Vy| <= |x - y|. So a k-d tree of the first
principal components finds every pair within a distance, and a few others, which the whole embeddings then
rule out. The result is exact. Rows are read in chunks; what stays in memory is 12 numbers for each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.vectors import at_length_one

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]
Read = Callable[[Rows], Floats]
"""Reads rows, in any order, as (n, P) float32."""

NEAR = 0.25
"""Largest distance of near duplicates, as a share of the usual distance; docs/check.md says why."""
USUAL = 5
"""The neighbour whose distance is the usual one. The first may be a copy where copies abound, as in bursts of
photos; the fifth seldom is."""
SAMPLED = 1000
"""Most rows from which the centre, the components and the usual distance are measured."""
COMPONENTS = 12
MOST_PAIRS = 2_000_000
CHUNK = 4096
_TINY = 1e-6


@dataclass(frozen=True)
class Pairs:
    """Pairs of near rows."""

    first: Rows
    """(n,) row numbers; each is below its `second`."""
    second: Rows
    distance: Floats
    """(n,) distances of the centred embeddings at length one, from 0 to 2; the cosine is 1 - d^2 / 2."""
    same: NDArray[np.bool_]
    """(n,) True for embeddings that are equal up to rounding."""
    usual: float
    """Median distance of a row to its fifth neighbour."""
    radius: float
    """Largest distance of a pair."""


def rounding_of(dtype: str) -> float:
    """Return the largest relative distance that storing with `dtype` makes between two equal embeddings.

    It is one unit in the last place of every value: 2^-10, or 2^-7 for bfloat16. Caches of float32 are held
    to 2^-10 too, because the same sample in another batch has other rounding errors.
    """
    return 2.0**-7 if dtype == "bfloat16" else 2.0**-10


def near_pairs(
    read: Read,
    rows: int,
    *,
    near: float,
    rounding: float,
    seed: int = 0,
    done: Callable[[int], object] = lambda rows: None,
) -> Pairs:
    """Find all pairs among `rows` embeddings that are the same up to `rounding`, or near.

    Near is a distance of at most `near` times the usual distance. If there are more than two million such
    pairs, the distance is halved until there are fewer; in the end, only identical ones are found. `done`
    receives counts of rows that were read.

    >>> x = np.random.default_rng(0).standard_normal((100, 8)).astype("f4")
    >>> x[7] = x[90] * 1.001
    >>> found = near_pairs(lambda rows: x[rows], 100, near=0.1, rounding=2.0**-10)
    >>> found.first.tolist(), found.second.tolist(), found.same.tolist()
    ([7], [90], [False])
    """
    from scipy.spatial import cKDTree

    if rows < 2:
        none = np.zeros(0, np.int64)
        return Pairs(none, none, none.astype(np.float32), none.astype(bool), 0.0, 0.0)
    frame = _Frame.of(read, rows, np.random.default_rng(seed))
    scan = _scan(read, rows, frame, done)
    usual = scan.usual()
    tree, radius = cKDTree(scan.projected[scan.distinct]), max(near * usual, rounding)
    # Counted at the sampled rows first, because a collapsed model would fill the memory with pairs.
    probes = scan.projected[frame.sample]
    while (crowded := _pairs(tree, probes, radius) > MOST_PAIRS) and radius > _TINY:
        radius /= 2
    close = np.zeros((0, 2), np.int64)
    if not crowded:
        close = tree.query_pairs(radius * (1 + 1e-5), output_type="ndarray").astype(np.int64)
    found = np.sort(np.concatenate([scan.distinct[close].reshape(-1, 2), scan.identical]), axis=1)
    distance, same = _compare(read, found, frame, rounding)
    kept = same | (distance <= radius)
    order = np.flatnonzero(kept)[np.lexsort((found[kept, 1], found[kept, 0], distance[kept]))]
    return Pairs(found[order, 0], found[order, 1], distance[order], same[order], usual, radius)


class Twins:
    """Finds rows that are the same, up to rounding, as one of M embeddings."""

    def __init__(self, embeddings: Floats, rounding: float) -> None:
        from scipy.spatial import cKDTree

        self._own, self._rounding = embeddings, rounding
        size = np.linalg.norm(embeddings, axis=1) if len(embeddings) else np.zeros(1)
        self._radius = float(size.max()) * rounding * (1 + 1e-3)
        self._basis = _components(embeddings[:: max(1, len(embeddings) // SAMPLED)])
        self._tree: Any = cKDTree(embeddings @ self._basis) if len(embeddings) else None

    def of(self, others: Floats) -> list[tuple[int, int]]:
        """Return pairs of a row of `others` (n, P) and the first of the M embeddings that is the same.

        >>> own = np.random.default_rng(0).standard_normal((50, 6)).astype("f4")
        >>> Twins(own, 2.0**-10).of(np.stack([own[3] + 1, own[9] * 1.0001]))
        [(1, 9)]
        """
        if self._tree is None or not len(others):
            return []
        near = self._tree.query_ball_point(others @ self._basis, self._radius)
        pairs = []
        for row, candidates in enumerate(near):
            chosen = np.sort(np.array(candidates, np.int64))
            match = _same(others[row], self._own[chosen], self._rounding)
            pairs += [(row, int(own)) for own in chosen[match][:1]]
        return pairs


@dataclass(frozen=True)
class _Frame:
    """Where distances are measured: centred, at length one; and its first principal components."""

    center: Floats
    basis: Floats
    sample: Rows
    points: Floats
    """The sampled rows, centred and at length one."""

    @classmethod
    def of(cls, read: Read, rows: int, generator: np.random.Generator) -> _Frame:
        sample = np.sort(generator.choice(rows, min(rows, SAMPLED), replace=False))
        values = read(sample)
        center = values.mean(0)
        points = at_length_one(values - center)
        return cls(center, _components(points), sample, points)

    def place(self, values: Floats) -> Floats:
        return at_length_one(values - self.center)


@dataclass(frozen=True)
class _Scan:
    """The results of one pass over all rows."""

    projected: NDArray[np.float64]
    """(N, k)."""
    distinct: Rows
    """The first row of each distinct embedding."""
    identical: Rows
    """(n, 2) pairs of such a row and a later one with the same bytes."""
    nearest: Floats
    """(S, USUAL) largest cosines of the sampled rows with other, distinct rows."""

    def usual(self) -> float:
        cosine = self.nearest.min(1)
        distance = np.sqrt(np.maximum(0, 2 - 2 * cosine[cosine > -1]))
        return float(np.median(distance)) if len(distance) else 0.0


def _scan(read: Read, rows: int, frame: _Frame, done: Callable[[int], object]) -> _Scan:
    """Read all rows once, in chunks."""
    projected = np.empty((rows, frame.basis.shape[1]))
    first: dict[bytes, int] = {}
    distinct, identical = [], []
    count = min(USUAL, max(rows - 1, 1))
    nearest = np.full((len(frame.sample), count), -2, np.float32)
    for start in range(0, rows, CHUNK):
        numbers = np.arange(start, min(start + CHUNK, rows))
        values = read(numbers)
        own = []
        for row, value in zip(numbers.tolist(), values, strict=True):
            kept = first.setdefault(value.tobytes(), row)
            if kept == row:
                own.append(row)
            else:
                identical.append((kept, row))
        points = frame.place(values)
        projected[numbers] = points @ frame.basis
        cosine = frame.points @ points[np.array(own, np.int64) - start].T
        cosine[frame.sample[:, None] == np.array(own)[None]] = -2
        both = np.concatenate([nearest, cosine], axis=1)
        nearest = -np.partition(-both, count - 1, axis=1)[:, :count]
        distinct += own
        done(len(numbers))
    pairs = np.array(identical, np.int64).reshape(-1, 2)
    return _Scan(projected, np.array(distinct, np.int64), pairs, nearest)


def _pairs(tree: Any, probes: NDArray[np.float64], radius: float) -> float:
    """Estimate the number of pairs within a radius in a k-d tree, from some of its points."""
    near = tree.query_ball_point(probes, radius, return_length=True)
    return (float(near.mean()) - 1) * float(tree.n) / 2


def _compare(read: Read, pairs: Rows, frame: _Frame, rounding: float) -> tuple[Floats, NDArray[np.bool_]]:
    """Return the distances of pairs in the frame, and if they are the same up to rounding."""
    distance, same = np.zeros(len(pairs), np.float32), np.zeros(len(pairs), bool)
    for start in range(0, len(pairs), CHUNK):
        part = slice(start, start + CHUNK)
        a, b = read(pairs[part, 0]), read(pairs[part, 1])
        distance[part] = np.linalg.norm(frame.place(a) - frame.place(b), axis=1)
        same[part] = _same(a, b, rounding)
    return distance, same


def _same(a: Floats, b: Floats, rounding: float) -> NDArray[np.bool_]:
    size = np.maximum(np.linalg.norm(a, axis=-1), np.linalg.norm(b, axis=-1))
    return np.asarray(np.linalg.norm(a - b, axis=-1) <= rounding * size)


def _components(values: Floats) -> Floats:
    """Return (P, k) orthonormal directions, of the largest variance first."""
    if len(values) < 2:
        return np.eye(values.shape[1], min(COMPONENTS, values.shape[1]), dtype=np.float32)
    _, vectors = np.linalg.eigh(np.cov(values.astype(np.float64), rowvar=False).reshape(values.shape[1], -1))
    return np.asarray(vectors[:, ::-1][:, :COMPONENTS], np.float32)
