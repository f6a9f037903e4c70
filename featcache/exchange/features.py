"""Turn the arrays of an import into rows of a cache, check every value, and digest the content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from featcache.cache.codec import first_not_finite, to_storage
from featcache.cache.spec import Shapes, TokenArray
from featcache.errors import ConfigError, SourceError, option
from featcache.exchange.columns import Column
from featcache.exchange.options import ImportOptions
from featcache.exchange.samples import Found, Samples, dtype_of
from featcache.specs import ValueType

_PIECE = 32 << 20
EMPTY = "the sample has no tokens"


class Rows(NamedTuple):
    """Some rows of a split, in the types of the files."""

    tokens: NDArray[Any]
    """(n, T, D); for samples of pooled embeddings only, `pooled` as one token."""
    pooled: NDArray[Any]
    """(n, P)."""
    mask: NDArray[np.bool_] | None
    """(n, T), False for padding, where tokens are zeros."""
    empty: list[int]
    """Rows without a token, counted from the first of these."""


@dataclass(frozen=True)
class Form:
    """How samples are stored: the same for all splits."""

    tokens: int
    """Tokens of a sample, padding included; 1 for pooled embeddings only."""
    dim: int
    pooled: int
    masked: bool
    """True if samples differ in their number of tokens."""
    dtype: ValueType
    max_tokens: int | None
    longest: int
    """The tokens of the longest sample, before `max_tokens`."""
    only_pooled: bool
    exact: bool
    """True if float64 must be stored without loss."""

    @classmethod
    def of(cls, found: Found, options: ImportOptions) -> Form:
        """Find the form that holds all splits exactly, unless `options` ask for another type."""
        splits = list(found.splits.values())
        kind, first = dtype_of(splits), splits[0]
        dtype = cast(ValueType, options.dtype or ("float32" if kind == "float64" else kind))
        exact = options.dtype is None
        if first.tokens is None:
            assert first.pooled is not None
            if options.max_tokens is not None:
                got = f"{option('max_tokens', options.max_tokens)} and {first.pooled.describe()}"
                raise ConfigError("there are no tokens to leave out", got=got, hint="leave the option out")
            width = cast(int, first.pooled.shape[0])
            return cls(1, width, width, False, dtype, None, 1, True, exact)
        columns = [cast(Column, split.tokens) for split in splits]
        longest, dim = max(column.tokens for column in columns), cast(int, first.tokens.shape[1])
        ragged = len({column.shape[0] for column in columns} | {longest}) > 1
        masked = ragged or any(split.mask is not None for split in splits)
        kept = min(longest, options.max_tokens or longest)
        pooled = dim if first.pooled is None else cast(int, first.pooled.shape[0])
        return cls(max(kept, 1), dim, pooled, masked, dtype, options.max_tokens, longest, False, exact)

    def shapes(self) -> Shapes:
        """Return the geometry of the cache."""
        layer = TokenArray(layer=-1, tokens=self.tokens, dim=self.dim)
        return Shapes(layers=(layer,), pooled=self.pooled, mask=self.masked)

    def rows(self, samples: Samples, start: int, stop: int) -> Rows:
        """Read the rows [start, stop) of a split."""
        pooled = None if samples.pooled is None else samples.pooled.read(start, stop)
        if samples.tokens is None:
            assert pooled is not None
            return Rows(pooled[:, None], pooled, None, [])
        found = samples.tokens.read(start, stop)
        if samples.mask is not None:
            kept = samples.mask.read(start, stop).astype(bool)
            found = [tokens[mask] for tokens, mask in zip(found, kept, strict=True)]
        elif isinstance(found, np.ndarray) and found.shape[1] == self.tokens and not self.masked:
            return Rows(found, _mean(found) if pooled is None else pooled, None, [])
        found = [thinned(tokens, self.tokens) for tokens in found]
        tokens = np.zeros((stop - start, self.tokens, self.dim), found[0].dtype)
        mask = np.zeros(tokens.shape[:2], np.bool_)
        for row, own in enumerate(found):
            tokens[row, : len(own)], mask[row, : len(own)] = own, True
        if pooled is None:
            pooled = np.stack([_mean(own[None])[0] for own in found])
        empty = [row for row, own in enumerate(found) if not len(own)]
        return Rows(tokens, pooled, mask if self.masked else None, empty)

    def step(self) -> int:
        """Return how many rows make a piece of some megabytes."""
        return max(1, _PIECE // (8 * max(self.longest * self.dim, self.pooled)))


def thinned(tokens: NDArray[Any], most: int) -> NDArray[Any]:
    """Return at most so many tokens (t, D), evenly spaced and in order.

    >>> thinned(np.arange(10)[:, None], 4).ravel()
    array([0, 2, 5, 7])
    """
    return tokens if len(tokens) <= most else tokens[np.arange(most) * len(tokens) // most]


def check_and_digest(samples: Samples, form: Form, done: Callable[[int], object]) -> tuple[str, list[int]]:
    """Return the SHA-256 (hex) of ids and values as they will be stored, and the rows without a token.

    Raise SourceError, naming the sample, for a value that is not finite or that the stored type cannot hold.
    """
    head = {"rows": len(samples), "form": [form.tokens, form.dim, form.pooled, form.dtype, form.max_tokens]}
    total = hashlib.sha256(json.dumps(head, sort_keys=True).encode())
    total.update(json.dumps(list(samples.ids)).encode())
    digests: dict[str, Any] = {}
    empty: list[int] = []
    for start in range(0, len(samples), form.step()):
        stop = min(start + form.step(), len(samples))
        rows = form.rows(samples, start, stop)
        arrays = (
            {"pooled": rows.pooled} if form.only_pooled else {"tokens": rows.tokens, "pooled": rows.pooled}
        )
        for name, values in arrays.items():
            stored = _checked(name, values, form, samples, start)
            digests.setdefault(name, hashlib.sha256()).update(stored.data)
        if rows.mask is not None:
            digests.setdefault("mask", hashlib.sha256()).update(rows.mask.data)
        empty += [start + row for row in rows.empty]
        done(stop - start)
    for name, digest in sorted(digests.items()):
        total.update(name.encode() + digest.digest())
    return total.hexdigest(), empty


def _checked(name: str, values: NDArray[Any], form: Form, samples: Samples, start: int) -> NDArray[Any]:
    """Return values as they will be stored; raise SourceError if one cannot be."""
    stored = to_storage(values, form.dtype)
    at = first_not_finite(stored, form.dtype)
    exact = values.dtype == np.float64 and form.exact and at is None
    lossy = np.flatnonzero((stored != values).reshape(-1)) if exact else np.empty(0, np.int64)
    if at is None and not len(lossy):
        return stored
    at = int(lossy[0]) if at is None else at
    row = start + at // (values.size // len(values))
    value, where = values.reshape(-1)[at], f"in `{name}` of sample {samples.ids[row]} (row {row})"
    if not np.isfinite(value):
        what, expected = f"{value} {where}", "finite values"
        raise SourceError(
            "an embedding is not finite", got=what, expected=expected, hint="leave that sample out"
        )
    if at is not None and not len(lossy):
        wider = option("dtype", "float32" if form.dtype == "bfloat16" else "bfloat16")
        raise SourceError(
            f"{form.dtype} cannot hold an embedding", got=f"{value:.4g} {where}", hint=f"pass {wider}"
        )
    raise SourceError(
        "the embeddings are float64, and float32 does not hold them exactly",
        got=f"{value!r} {where}",
        hint=f"pass {option('dtype', 'float32')} to round them",
    )


def _mean(tokens: NDArray[Any]) -> NDArray[np.float32]:
    """Return the mean (n, D) of tokens (n, T, D), summed in float64; zeros where there are none."""
    if not tokens.shape[1]:
        return np.zeros((len(tokens), tokens.shape[2]), np.float32)
    return np.asarray(tokens.mean(1, dtype=np.float64), np.float32)
