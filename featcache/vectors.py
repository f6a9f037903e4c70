"""Vectors as rows of an array. It imports no other module of featcache."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def at_length_one(rows: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Return (N, P) vectors divided by their lengths; zeros stay zeros.

    >>> at_length_one(np.array([[0.0, -3.0], [0.0, 0.0]])).tolist()
    [[0.0, -1.0], [0.0, 0.0]]
    """
    length = np.linalg.norm(rows.astype(np.float32), axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(length, 1e-12), np.float32)
