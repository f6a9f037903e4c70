"""Batches through the frozen model, and what its output looks like."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from featcache.cache.spec import Shapes, TokenArray
from featcache.encoders.base import Encoded, Encoder, Inputs
from featcache.errors import EncoderError, FeatcacheError, SampleError, SourceError
from featcache.extraction import tokens
from featcache.sources.base import Source
from featcache.specs import ValueType


class Arrays(NamedTuple):
    """One view of a batch as the cache stores it."""

    tokens: dict[int, NDArray[Any]]
    pooled: NDArray[Any]
    mask: NDArray[np.bool_] | None


class Running(NamedTuple):
    """A batch that the device has been told to compute; on CUDA it and its copies may still be under way."""

    pieces: list[Encoded]
    done: torch.cuda.Event | None

    def result(self) -> Encoded:
        """The batch on the host, once it is there."""
        if self.done is not None:
            self.done.synchronize()
        return _joined(self.pieces)


@dataclass
class Forward:
    """The frozen model with everything that is fixed for one extraction."""

    encoder: Encoder
    layers: tuple[int, ...]
    choice: str
    amp: ValueType
    device: torch.device
    at_once: int | None = None
    """Views that fit in memory, once a batch has turned out not to."""

    def __call__(self, inputs: Inputs) -> Encoded:
        """The chosen tokens of a batch, on the host; raises EncoderError where the model cannot take it."""
        return self.start(inputs).result()

    def start(self, inputs: Inputs) -> Running:
        """Have a batch computed; where memory does not suffice, in halves, and all later ones likewise.

        Raises EncoderError where the model cannot take it, or not even one sample of it fits.
        """
        count = len(next(iter(inputs.values())))
        while True:
            step = min(self.at_once or count, count)
            try:
                pieces = [
                    self._encode({name: value[first : first + step] for name, value in inputs.items()})
                    for first in range(0, count, step)
                ]
                break
            except torch.OutOfMemoryError as error:
                said = str(error).splitlines()[0]
            # Only here, as the error's traceback would keep the tensors of the failed attempt.
            if step == 1:
                raise EncoderError(
                    "the device has no room for a single sample",
                    got=said,
                    hint="a smaller model, --amp bfloat16 or another --device; what is written already stays",
                )
            self.at_once = step // 2
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
        return Running(pieces, _event(self.device))

    def inputs(self, source: Source, count: int) -> Inputs:
        """The first readable sample `count` times; raises SourceError when no sample can be read."""
        _, data = _first_readable(source)
        with _explained():
            sample = self.encoder.transform(data)
        return {name: torch.stack([value] * count) for name, value in sample.items()}

    def shapes(self, source: Source) -> Shapes:
        """The geometry, found and checked by running the first readable sample; nothing is written.

        Raises SourceError when no sample can be read, EncoderError when the output is not what a cache holds.
        """
        key, _ = _first_readable(source)
        # Twice: a model that answers one sample may still not answer a batch.
        encoded = self(self.inputs(source, 2))
        tokens.check(encoded, [key, key])
        arrays = []
        for layer in self.layers:
            (_, count, dim), geometry = encoded.tokens[layer].shape, encoded.geometry[layer]
            arrays.append(
                TokenArray(layer=layer, tokens=count, dim=dim, prefix=geometry.prefix, grid=geometry.grid)
            )
        mask = encoded.mask is not None
        return Shapes(layers=tuple(arrays), pooled=encoded.pooled.shape[1], mask=mask)

    def _encode(self, inputs: Inputs) -> Encoded:
        dtype = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": None}[self.amp]
        moved = {name: value.to(self.device, non_blocking=True) for name, value in inputs.items()}
        autocast = torch.autocast(self.device.type, dtype, enabled=dtype is not None)
        with torch.inference_mode(), autocast, _explained():
            encoded = self.encoder.encode(moved, self.layers)
            _require_batch(encoded, len(next(iter(inputs.values()))))
            return _mapped(tokens.select(encoded, self.choice), _to_host)


def split_views(encoded: Encoded, views: int, rows: int, readable: NDArray[np.int64]) -> list[Arrays]:
    """A batch of `views * len(readable)` outputs as `views` batches of `rows`, zeros in rows not readable."""

    def spread(values: torch.Tensor) -> NDArray[Any]:
        values = values.float() if values.is_floating_point() else values
        got = values.numpy().reshape(views, len(readable), *values.shape[1:])
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


@contextmanager
def _explained() -> Iterator[None]:
    """Whatever a model or its transform raises, in words."""
    try:
        yield
    except (FeatcacheError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise EncoderError("the model fails", got=f"{type(error).__name__}: {error}") from error


def _event(device: torch.device) -> torch.cuda.Event | None:
    if device.type != "cuda":
        return None
    event: torch.cuda.Event = torch.cuda.current_stream(device).record_event()
    return event


def _to_host(values: Tensor) -> Tensor:
    """Beside the device's work: into pinned memory, which torch keeps and reuses."""
    if values.device.type != "cuda":
        return values.cpu()
    return torch.empty(values.shape, dtype=values.dtype, pin_memory=True).copy_(values, non_blocking=True)


def _mapped(encoded: Encoded, to: Callable[[Tensor], Tensor]) -> Encoded:
    return encoded._replace(
        tokens={layer: to(values) for layer, values in encoded.tokens.items()},
        mask=None if encoded.mask is None else to(encoded.mask),
        pooled=to(encoded.pooled),
    )


def _joined(pieces: list[Encoded]) -> Encoded:
    if len(pieces) == 1:
        return pieces[0]
    masks = [piece.mask for piece in pieces if piece.mask is not None]
    return pieces[0]._replace(
        tokens={layer: torch.cat([piece.tokens[layer] for piece in pieces]) for layer in pieces[0].tokens},
        mask=torch.cat(masks) if masks else None,
        pooled=torch.cat([piece.pooled for piece in pieces]),
    )


def _require_batch(encoded: Encoded, samples: int) -> None:
    given = {"pooled": encoded.pooled} | {f"tokens of layer {n}": x for n, x in encoded.tokens.items()}
    for name, values in given.items():
        if values.shape[:1] != (samples,):
            raise EncoderError(
                "the model's output does not follow its batch",
                got=f"{name} of shape {tuple(values.shape)}",
                expected=f"({samples}, ...) for {samples} samples",
            )


def _first_readable(source: Source) -> tuple[str, Any]:
    reason = ""
    for row in range(len(source)):
        try:
            return source.ids[row], source[row]
        except SampleError as error:
            reason = reason or f"{source.ids[row]}: {error.what}"
    raise SourceError(
        "not one sample of the source can be read",
        got=f"{len(source)} samples, the first one {reason}",
        hint="check that these are files of a format Pillow opens",
    )
