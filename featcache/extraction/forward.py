"""Batches through the frozen model, and what its output looks like."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from featcache.cache.spec import Shapes, TokenArray, ValueType
from featcache.encoders import tokens
from featcache.encoders.base import Encoded, Encoder, Inputs
from featcache.errors import SampleError, SourceError
from featcache.sources.base import Source


class Arrays(NamedTuple):
    """One view of a batch as the cache stores it."""

    tokens: dict[int, NDArray[Any]]
    pooled: NDArray[Any]
    mask: NDArray[np.bool_] | None


@dataclass(frozen=True)
class Forward:
    """The frozen model with everything that is fixed for one extraction."""

    encoder: Encoder
    layers: tuple[int, ...]
    choice: str
    amp: ValueType
    device: torch.device

    def __call__(self, inputs: Inputs) -> Encoded:
        """The chosen tokens of a batch, on the device."""
        dtype = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": None}[self.amp]
        moved = {name: value.to(self.device, non_blocking=True) for name, value in inputs.items()}
        with torch.inference_mode(), torch.autocast(self.device.type, dtype, enabled=dtype is not None):
            return tokens.select(self.encoder.encode(moved, self.layers), self.choice)

    def shapes(self, source: Source) -> Shapes:
        """The geometry, found and checked by running the first readable sample; nothing is written.

        Raises SourceError when no sample can be read, EncoderError when the output is not what a cache holds.
        """
        sample = self.encoder.transform(_first_readable(source))
        encoded = self({name: value.unsqueeze(0) for name, value in sample.items()})
        tokens.check(encoded)
        arrays = []
        for layer in self.layers:
            (_, count, dim), geometry = encoded.tokens[layer].shape, encoded.geometry[layer]
            arrays.append(
                TokenArray(layer=layer, tokens=count, dim=dim, prefix=geometry.prefix, grid=geometry.grid)
            )
        mask = encoded.mask is not None
        return Shapes(layers=tuple(arrays), pooled=encoded.pooled.shape[1], mask=mask)


def split_views(encoded: Encoded, views: int, rows: int, readable: NDArray[np.int64]) -> list[Arrays]:
    """A batch of `views * len(readable)` outputs as `views` batches of `rows`, zeros where a row is not readable."""

    def spread(values: torch.Tensor) -> NDArray[Any]:
        values = values.float() if values.is_floating_point() else values
        got = values.cpu().numpy().reshape(views, len(readable), *values.shape[1:])
        if len(readable) == rows:
            return got
        whole = np.zeros((views, rows, *got.shape[2:]), got.dtype)
        whole[:, readable] = got
        return whole

    by_layer = {layer: spread(values) for layer, values in encoded.tokens.items()}
    pooled, mask = spread(encoded.pooled), None if encoded.mask is None else spread(encoded.mask)
    return [
        Arrays(
            {layer: values[view] for layer, values in by_layer.items()},
            pooled[view],
            None if mask is None else mask[view],
        )
        for view in range(views)
    ]


def empty_views(shapes: Shapes, views: int, rows: int) -> list[Arrays]:
    """Zeros for a batch of which no row could be read."""
    by_layer = {a.layer: np.zeros((rows, a.tokens, a.dim), np.float32) for a in shapes.layers}
    mask = np.zeros((rows, shapes.layers[0].tokens), np.bool_) if shapes.mask else None
    return [Arrays(by_layer, np.zeros((rows, shapes.pooled), np.float32), mask)] * views


def _first_readable(source: Source) -> Any:
    reason = ""
    for row in range(len(source)):
        try:
            return source[row]
        except SampleError as error:
            reason = reason or f"{source.ids[row]}: {error.what}"
    raise SourceError(
        "not one sample of the source can be read",
        got=f"{len(source)} samples, the first one {reason}",
        hint="check that these are files of a format Pillow opens",
    )
