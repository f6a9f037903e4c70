"""Choose the tokens of a model's output, and check that they fit their geometry: pure functions."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from featcache.encoders.base import Encoded, Geometry, Layer, from_map
from featcache.errors import EncoderError, option

_CHOICES = "all, cls, patch, pooled or grid:HxW"


def select(encoded: Encoded, choice: str) -> Encoded:
    """Return only the tokens that `choice` names, in every layer; `pooled` is always kept.

    `all`: every token. `cls`: the first prefix token, (B, 1, D). `patch`: the grid alone, (B, h w, D).
    `grid:HxW`: the grid averaged down to H by W, as `torch.nn.AdaptiveAvgPool2d` does, (B, H W, D).
    `pooled`: the model's own embedding as the only token, (B, 1, P).

    Raises EncoderError where the model has no such tokens, or the grid would have to grow.
    """
    if choice == "all":
        return encoded
    if choice == "pooled":
        pooled = encoded.pooled.unsqueeze(1)
        return encoded._replace(
            tokens=dict.fromkeys(encoded.tokens, pooled),
            mask=None,
            geometry=dict.fromkeys(encoded.geometry, Geometry(0, None)),
        )
    pick = _picker(choice)
    picked = {layer: pick(tokens, encoded.geometry[layer]) for layer, tokens in encoded.tokens.items()}
    return encoded._replace(
        tokens={layer: tokens for layer, (tokens, _) in picked.items()},
        mask=None,
        geometry={layer: geometry for layer, (_, geometry) in picked.items()},
    )


def check(encoded: Encoded, ids: Sequence[str] | None = None) -> None:
    """Raise EncoderError where shapes disagree with each other or the geometry, or a value is not finite.

    The error names the sample where the `ids` of the batch are given.
    """
    if encoded.pooled.ndim != 2:
        raise EncoderError("pooled has the wrong rank", got=tuple(encoded.pooled.shape), expected="(B, P)")
    batch = encoded.pooled.shape[0]
    if not encoded.tokens or encoded.tokens.keys() != encoded.geometry.keys():
        raise EncoderError(
            "every layer needs tokens and a geometry",
            got=f"tokens of {list(encoded.tokens)}, geometry of {list(encoded.geometry)}",
        )
    for layer, tokens in encoded.tokens.items():
        _check_layer(layer, tokens, encoded.geometry[layer], batch)
        _check_finite(f"tokens of layer {layer}", tokens, ids)
        if encoded.mask is not None and encoded.mask.shape != tokens.shape[:2]:
            raise EncoderError(
                f"the mask does not fit the tokens of layer {layer}",
                got=tuple(encoded.mask.shape),
                expected=tuple(tokens.shape[:2]),
            )
    if encoded.mask is not None and encoded.mask.dtype != torch.bool:
        raise EncoderError("the mask must be boolean", got=encoded.mask.dtype, expected=torch.bool)
    _check_finite("pooled", encoded.pooled, ids)


def check_same(one: Encoded, row: int, other: Encoded, other_row: int, tolerance: float) -> None:
    """Raise EncoderError where a sample has other features in another batch.

    `tolerance` is the part of the norm by which they may differ, as rounding depends on the batch.
    """
    pairs = {f"tokens of layer {n}": (one.tokens[n][row], other.tokens[n][other_row]) for n in one.tokens}
    for where, (a, b) in (pairs | {"pooled": (one.pooled[row], other.pooled[other_row])}).items():
        if a.shape != b.shape:
            difference = f"shapes {tuple(a.shape)} and {tuple(b.shape)}"
        elif (apart := float((a.float() - b.float()).norm() / a.float().norm().clamp_min(1e-12))) > tolerance:
            difference = f"{apart:.1%} of their norm apart"
        else:
            continue
        raise EncoderError(
            f"the model is not deterministic: a sample has other features ({where}) in another batch",
            got=difference,
            expected=f"at most {tolerance:.1%} apart, as by rounding",
            hint="switch off dropout, random masks and statistics of the batch in the model",
        )


def _check_layer(layer: int, tokens: Tensor, geometry: Geometry, batch: int) -> None:
    where = f"tokens of layer {layer}"
    if tokens.ndim != 3 or 0 in tokens.shape:
        raise EncoderError(f"{where} have the wrong shape", got=tuple(tokens.shape), expected="(B, T, D)")
    if tokens.shape[0] != batch:
        raise EncoderError(f"{where} and pooled differ in batch size", got=tokens.shape[0], expected=batch)
    if not tokens.is_floating_point():
        raise EncoderError(f"{where} are not floating point", got=tokens.dtype)
    prefix, grid = geometry
    count = prefix + math.prod(grid) if grid else prefix
    if count > tokens.shape[1] or (grid and count != tokens.shape[1]):
        raise EncoderError(
            f"{where} do not fit their geometry",
            got=f"{tokens.shape[1]} tokens",
            expected=f"{prefix} prefix tokens and a grid of {_grid_text(grid)}",
        )


def _check_finite(where: str, values: Tensor, ids: Sequence[str] | None) -> None:
    bad = ~values.isfinite().flatten(1).all(dim=1)
    if bad.any():
        row = int(bad.nonzero()[0])
        raise EncoderError(
            f"{where} are not finite",
            got="NaN or inf in " + (f"row {row} of the batch" if ids is None else f"sample {ids[row]}"),
            hint=f"try {option('amp', 'float32')}, or look at this sample",
        )


def _picker(choice: str) -> Callable[[Tensor, Geometry], Layer]:
    size = re.fullmatch(r"grid:([1-9]\d*)x([1-9]\d*)", choice)
    if size:
        rows, columns = int(size[1]), int(size[2])
        return lambda tokens, geometry: _smaller_grid(tokens, geometry, rows, columns)
    if choice not in ("cls", "patch"):
        raise EncoderError("unknown choice of tokens", got=choice, expected=_CHOICES)
    return _cls if choice == "cls" else _patches


def _cls(tokens: Tensor, geometry: Geometry) -> Layer:
    if not geometry.prefix:
        raise EncoderError(
            "this model has no CLS token",
            got="no prefix tokens",
            hint=f"use {option('tokens', 'pooled')} or {option('tokens', 'patch')}",
        )
    return tokens[:, :1], Geometry(1, None)


def _patches(tokens: Tensor, geometry: Geometry) -> Layer:
    if geometry.grid is None:
        raise EncoderError(
            "this model's tokens have no grid",
            got=geometry,
            hint=f"use {option('tokens', 'all')}, cls or pooled",
        )
    return tokens[:, geometry.prefix :], Geometry(0, geometry.grid)


def _smaller_grid(tokens: Tensor, geometry: Geometry, rows: int, columns: int) -> Layer:
    patches, (_, grid) = _patches(tokens, geometry)
    if grid is None or rows > grid[0] or columns > grid[1]:
        raise EncoderError(
            "the grid can only become smaller",
            got=f"grid:{rows}x{columns}",
            expected=f"at most {_grid_text(grid)}",
        )
    feature_map = patches.transpose(1, 2).reshape(patches.shape[0], -1, *grid)
    # In float32: averaging in half precision would lose bits, and the CPU cannot do it.
    smaller = adaptive_avg_pool2d(feature_map.float(), (rows, columns)).to(tokens.dtype)
    return from_map(smaller)


def _grid_text(grid: tuple[int, int] | None) -> str:
    return f"{grid[0]}x{grid[1]}" if grid else "any size"
