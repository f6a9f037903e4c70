"""int8 tokens: each dimension is divided by its RMS, then each token by a scale of its own.

    q = round(x / (std scale)),    x ~ q scale std,    |x - q scale std| <= std scale / 2

`std` (D,) is the RMS of each dimension, the same for a whole cache. `scale` is the largest |x / std| of a
token, over 127. Without `std`, a few outlying dimensions would use up the range of a token.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from featcache.cache.spec import CacheSpec, Shapes
from featcache.errors import CacheError

LARGEST = 127
FLOOR = 1e-3
"""Lower limit of a dimension's RMS, as a share of the RMS of all dimensions. A dimension that was constant
while it was measured must not use up the range of a token when it varies later."""
_PIECE = 1 << 16
_TINY = np.finfo(np.float32).tiny


class Quantised(NamedTuple):
    """Tokens as int8 caches store them."""

    values: NDArray[np.int8]
    """(n, T, D)."""
    scale: NDArray[np.float32]
    """(n, T)."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tokens."""
        return self.values.shape


class RunningRms:
    """Root mean square of each dimension (standard deviation about zero), over tokens added in batches.

    It is taken about zero, not about the mean, because q = 0 stands for zero. Some dimensions of a
    transformer are large and hardly vary: they would be many deviations away from zero in every token.

    >>> rms = RunningRms(2)
    >>> rms.add(np.array([[3.0, 0.5], [-3.0, np.nan], [3.0, -0.5]]))
    >>> rms.std()
    array([3. , 0.5], dtype=float32)
    """

    def __init__(self, dim: int) -> None:
        self._count, self._squares = 0, np.zeros(dim)

    def add(self, tokens: NDArray[Any]) -> None:
        """Add (n, D) tokens; those with a NaN or infinity are left out."""
        finite = np.asarray(tokens[np.isfinite(tokens).all(-1)], np.float64)
        self._count += len(finite)
        self._squares += (finite**2).sum(0)

    def std(self) -> NDArray[np.float32]:
        """Return (D,) positive values; ones if there were no tokens, or only zeros."""
        squares = self._squares / max(self._count, 1)
        least = FLOOR * np.sqrt(squares.mean())
        return np.asarray(
            np.maximum(np.sqrt(squares), least) if least > _TINY else np.ones_like(squares), "f4"
        )


def quantise(tokens: NDArray[Any], std: NDArray[np.float32]) -> Quantised:
    """Return tokens (..., D) as int8 of that shape, and scales (...) float32; ties are rounded to even.

    A token of zeros has scale 0. One that holds a NaN or infinity gets it as its scale.

    >>> tuple(quantise(np.array([[254.0, -1.0], [0.0, 0.0]]), np.array([2, 1], np.float32)))
    (array([[127,  -1],
           [  0,   0]], dtype=int8), array([1., 0.], dtype=float32))
    """
    flat = tokens.reshape(-1, tokens.shape[-1])
    values, scale = np.empty(flat.shape, np.int8), np.empty(len(flat), np.float32)
    # Piece by piece, so that each stays in the cache of the processor for all passes.
    step = max(1, _PIECE // flat.shape[1])
    for start in range(0, len(flat), step):
        part = slice(start, start + step)
        values[part], scale[part] = _quantise(flat[part], std)
    return Quantised(values.reshape(tokens.shape), scale.reshape(tokens.shape[:-1]))


def dequantise(
    values: NDArray[np.int8], scale: NDArray[np.float32], std: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return the float32 values of int8 tokens (..., D) with their scales (...)."""
    return values * scale[..., None] * std


def require_std(spec: CacheSpec, shapes: Shapes) -> None:
    """Raise CacheError unless each layer has a `std` per dimension with int8, and none without."""
    expected = [layer.dim if spec.dtype == "int8" else 0 for layer in shapes.layers]
    got = [len(layer.std) for layer in shapes.layers]
    if got != expected:
        raise CacheError(
            f"the shapes do not fit {spec.dtype} tokens",
            got=f"standard deviations of {got} dimensions",
            expected=f"of {expected}, one list for each layer",
            hint="measure them with featcache.cache.quantise.RunningRms",
        )


def _quantise(tokens: NDArray[Any], std: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    with np.errstate(over="ignore", invalid="ignore"):
        over = np.asarray(tokens, np.float32) / std
        scale = np.abs(over).max(-1) / np.float32(LARGEST)
        # A subnormal scale has too few digits for a division.
        scale[scale < _TINY] = 0
        over /= np.where(np.isfinite(scale) & (scale > 0), scale, np.inf)[:, None]
        return np.rint(over, out=over).astype(np.int8), scale
