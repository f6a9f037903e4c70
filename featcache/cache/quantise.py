"""int8 tokens: every dimension over its own spread, then one scale for each token.

    q = round(x / (std scale)),    x ~ q scale std,    |x - q scale std| <= std scale / 2

`std` (D,) is the spread of each dimension, the same for a whole cache, and `scale` the largest |x / std| of a
token over 127. Without the first, a few outlying dimensions take a token's whole range for themselves.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.cache.spec import CacheSpec, Shapes
from featcache.errors import CacheError

LARGEST = 127
FLOOR = 1e-3
"""The least spread, as a share of the dimensions' common one: what stood still while it was measured cannot
claim a token's whole range when it moves later."""
_PIECE = 1 << 16
_TINY = np.finfo(np.float32).tiny


class Spread:
    """The standard deviation of each dimension about zero (root mean square), from tokens as they come.

    About zero and not about the mean, because q = 0 stands for zero: a dimension that is large and hardly
    varies, as some of many a transformer's are, would otherwise be many deviations away from it in every
    token.

    >>> spread = Spread(2)
    >>> spread.add(np.array([[3.0, 0.5], [-3.0, np.nan], [3.0, -0.5]]))
    >>> spread.std()
    array([3. , 0.5], dtype=float32)
    """

    def __init__(self, dim: int) -> None:
        self._count, self._squares = 0, np.zeros(dim)

    def add(self, tokens: NDArray[Any]) -> None:
        """Take in (n, D) tokens; those with a NaN or infinity do not count."""
        finite = np.asarray(tokens[np.isfinite(tokens).all(-1)], np.float64)
        self._count += len(finite)
        self._squares += (finite**2).sum(0)

    def std(self) -> NDArray[np.float32]:
        """(D,), all above zero; ones where there was nothing but zeros, or nothing."""
        squares = self._squares / max(self._count, 1)
        least = FLOOR * np.sqrt(squares.mean())
        return np.asarray(
            np.maximum(np.sqrt(squares), least) if least > _TINY else np.ones_like(squares), "f4"
        )


def quantise(tokens: NDArray[Any], std: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Tokens (..., D) as int8 of that shape and scales (...) float32; ties are rounded to even.

    A token of zeros has scale 0. One that holds a NaN or infinity gets it as its scale.

    >>> quantise(np.array([[254.0, -1.0], [0.0, 0.0]]), np.array([2, 1], np.float32))
    (array([[127,  -1],
           [  0,   0]], dtype=int8), array([1., 0.], dtype=float32))
    """
    flat = tokens.reshape(-1, tokens.shape[-1])
    values, scale = np.empty(flat.shape, np.int8), np.empty(len(flat), np.float32)
    # Piece by piece, so that the passes over one find it in the processor's cache.
    step = max(1, _PIECE // flat.shape[1])
    for start in range(0, len(flat), step):
        part = slice(start, start + step)
        values[part], scale[part] = _quantise(flat[part], std)
    return values.reshape(tokens.shape), scale.reshape(tokens.shape[:-1])


def dequantise(
    values: NDArray[np.int8], scale: NDArray[np.float32], std: NDArray[np.float32]
) -> NDArray[np.float32]:
    """The float32 values that (..., D) int8 tokens stand for."""
    return values * scale[..., None] * std


def require_std(spec: CacheSpec, shapes: Shapes) -> None:
    """Raise CacheError unless every layer has a `std` for each dimension with int8, and none without."""
    expected = [layer.dim if spec.dtype == "int8" else 0 for layer in shapes.layers]
    got = [len(layer.std) for layer in shapes.layers]
    if got != expected:
        raise CacheError(
            f"the shapes do not fit {spec.dtype} tokens",
            got=f"standard deviations of {got} dimensions",
            expected=f"of {expected}, one list for each layer",
            hint="measure them with featcache.cache.quantise.Spread",
        )


def _quantise(tokens: NDArray[Any], std: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    with np.errstate(over="ignore", invalid="ignore"):
        over = np.asarray(tokens, np.float32) / std
        scale = np.abs(over).max(-1) / np.float32(LARGEST)
        # A subnormal scale has too few digits to divide by.
        scale[scale < _TINY] = 0
        over /= np.where(np.isfinite(scale) & (scale > 0), scale, np.inf)[:, None]
        return np.rint(over, out=over).astype(np.int8), scale
