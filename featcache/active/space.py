"""Directions of embeddings, and distances between them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from featcache.vectors import at_length_one

Rows = NDArray[np.int64]
Vectors = NDArray[np.float32]


def directions(pooled: Vectors) -> Vectors:
    """Return (N, P) embeddings at length one, centred on their mean, at length one again.

    The embeddings of one model share a large common part, which would make all distances alike.

    >>> (directions(np.array([[2.0, 0.0], [0.0, 3.0]], np.float32)) * 2**0.5).round().tolist()
    [[1.0, -1.0], [-1.0, 1.0]]
    """
    centred = at_length_one(pooled)
    return at_length_one(centred - centred.mean(0, dtype=np.float64).astype(np.float32))


def squared_distances(a: Vectors, b: Vectors) -> Vectors:
    """Return the (n, m) squared distances, 0 to 4, of unit vectors a (n, P) and b (m, P)."""
    products: Vectors = a @ b.T
    products *= -2
    products += 2
    return np.maximum(products, 0, out=products)


def stands_for(labelled: Vectors, reference: Vectors) -> NDArray[np.float64]:
    """Count the reference rows that are nearer to each labelled row than to any other, and one for itself.

    >>> ends = np.array([[1.0, 0.0], [-1.0, 0.0]], np.float32)
    >>> stands_for(ends, np.array([[0.8, 0.6], [0.6, 0.8], [-0.6, 0.8]], np.float32)).tolist()
    [3.0, 2.0]
    """
    nearest = (reference @ labelled.T).argmax(1)
    return 1 + np.bincount(nearest, minlength=len(labelled)).astype(np.float64)


def draw(rows: Rows, most: int, rng: np.random.Generator) -> Rows:
    """Return at most `most` of the rows, drawn at random and sorted."""
    if len(rows) <= most:
        return rows
    return np.sort(rng.choice(rows, most, replace=False))
