"""The forward pass of a frozen model: batches in, chosen tokens out, with their shapes checked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from featcache import limits
from featcache.cache.spec import Shapes, TokenArray
from featcache.encoders.base import Encoded, Encoder, Inputs
from featcache.errors import EncoderError, FeatcacheError, SampleError, SourceError, option
from featcache.extraction import tokens
from featcache.sources.base import Source
from featcache.specs import ValueType

TOLERANCE: dict[str, float] = {"float32": 1e-3, "float16": 0.02, "bfloat16": 0.1}
"""Part of the norm that rounding may change in another batch, by type. A random mask changes more."""


class Arrays(NamedTuple):
    """One view of a batch as the cache stores it."""

    tokens: dict[int, NDArray[Any]]
    pooled: NDArray[Any]
    mask: NDArray[np.bool_] | None


class Running(NamedTuple):
    """A batch that was submitted to the device; on CUDA, computing and copying may not be finished."""

    pieces: list[Encoded]
    done: torch.cuda.Event | None

    def result(self) -> Encoded:
        """Wait for the batch and return it on the host."""
        if self.done is not None:
            self.done.synchronize()
        return _joined(self.pieces)


@dataclass
class Forward:
    """A frozen model on a device, with the layers, tokens and type of one extraction."""

    encoder: Encoder
    layers: tuple[int, ...]
    choice: str
    amp: ValueType
    device: torch.device
    at_once: int | None = None
    """Views that fit in memory; None until a batch did not."""

    def __call__(self, inputs: Inputs) -> Encoded:
        """Return the chosen tokens of a batch on the host; raises EncoderError where the model fails."""
        return self.start(inputs).result()

    def start(self, inputs: Inputs, views: int = 1) -> Running:
        """Submit a batch, view by view; where memory does not suffice, in halves, and later ones likewise.

        Raises EncoderError where the model raises an error, or one sample does not fit in memory.
        """
        count = len(next(iter(inputs.values()))) // views
        by_view = [
            {name: value[view * count : (view + 1) * count] for name, value in inputs.items()}
            for view in range(views)
        ]
        while True:
            step = min(self.at_once or count, count)
            try:
                pieces = [
                    self._encode({name: value[first : first + step] for name, value in one.items()})
                    for one in by_view
                    for first in range(0, count, step)
                ]
                break
            except torch.OutOfMemoryError as error:
                said = str(error).splitlines()[0]
            # Outside `except`, because the error's traceback keeps the tensors of the failed attempt.
            if step == 1:
                raise EncoderError(
                    "out of memory for a single sample",
                    got=said,
                    hint=f"try {option('amp', 'bfloat16')}, another {option('device')} or a smaller model",
                )
            self.at_once = step // 2
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
        return Running(pieces, _event(self.device))

    def inputs(self, source: Source, count: int) -> Inputs:
        """Return the first readable sample `count` times; raises SourceError when there is none."""
        _, data = _first_readable(source)
        with _explained():
            sample = self.encoder.transform(data)
        return {name: torch.stack([value] * count) for name, value in sample.items()}

    def shapes(self, source: Source) -> Shapes:
        """Return the geometry of the output for the first readable sample, checked; nothing is written.

        Raises SourceError when no sample can be read, EncoderError when the output does not fit a cache.
        """
        key, _ = _first_readable(source)
        # Two samples at least, because a model may work on one and fail on a batch.
        inputs = self.inputs(source, 2)
        encoded = self(inputs)
        tokens.check(encoded, [key, key])
        self._require_same(source, inputs)
        arrays = []
        for layer in self.layers:
            (_, count, dim), geometry = encoded.tokens[layer].shape, encoded.geometry[layer]
            arrays.append(
                TokenArray(layer=layer, tokens=count, dim=dim, prefix=geometry.prefix, grid=geometry.grid)
            )
        mask = encoded.mask is not None
        return Shapes(layers=tuple(arrays), pooled=encoded.pooled.shape[1], mask=mask)

    def _require_same(self, source: Source, inputs: Inputs) -> None:
        """Raise EncoderError if a sample has other features in another batch and another order."""
        first = {name: value[:1] for name, value in inputs.items()}
        others = [first, *self._others(source, first)]
        batch, turned = (
            {name: torch.cat([each[name] for each in order]) for name in first}
            for order in (others, others[::-1][: max(1, len(others) - 1)])
        )
        last = len(others) - 1
        tokens.check_same(self(batch), last, self(turned), 0, TOLERANCE[self.amp])

    def _others(self, source: Source, first: Inputs) -> Iterator[Inputs]:
        """Yield the second and third sample, if they can be read, in the shapes of the first."""
        for row in range(1, min(3, len(source))):
            # What is wrong with a sample is said when its turn comes.
            with suppress(Exception):
                sample = {name: value[None] for name, value in self.encoder.transform(source[row]).items()}
                if all(sample[name].shape == value.shape for name, value in first.items()):
                    yield sample

    def _encode(self, inputs: Inputs) -> Encoded:
        dtype = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": None}[self.amp]
        moved = {name: value.to(self.device, non_blocking=True) for name, value in inputs.items()}
        autocast = torch.autocast(self.device.type, dtype, enabled=dtype is not None)
        with torch.inference_mode(), autocast, _explained():
            encoded = self.encoder.encode(moved, self.layers)
            _require_batch(encoded, len(next(iter(inputs.values()))))
            return _mapped(tokens.select(encoded, self.choice), _to_host)


def split_views(encoded: Encoded, views: int, rows: int, readable: NDArray[np.int64]) -> list[Arrays]:
    """Split `views * len(readable)` outputs into `views` batches of `rows`, with zeros in unreadable rows."""

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
    """Return zeros for a batch without any readable row."""
    by_layer = {a.layer: np.zeros((rows, a.tokens, a.dim), np.float32) for a in shapes.layers}
    mask = np.zeros((rows, shapes.layers[0].tokens), np.bool_) if shapes.mask else None
    return [Arrays(by_layer, np.zeros((rows, shapes.pooled), np.float32), mask)] * views


@contextmanager
def _explained() -> Iterator[None]:
    """Raise any error of a model or its transform as an EncoderError, or as the limit that was met."""
    try:
        yield
    except (FeatcacheError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        limits.require_none(error, "the forward pass")
        raise EncoderError("the model raised an error", got=f"{type(error).__name__}: {error}") from error


def _event(device: torch.device) -> torch.cuda.Event | None:
    if device.type != "cuda":
        return None
    event: torch.cuda.Event = torch.cuda.current_stream(device).record_event()
    return event


def _to_host(values: Tensor) -> Tensor:
    """Copy into pinned memory, which torch keeps and reuses, while the device computes."""
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
                "the model's output does not have one row a sample",
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
        "no sample of the source can be read",
        got=f"{len(source)} samples, the first one {reason}",
        hint="check that these are files of a format Pillow opens",
    )
