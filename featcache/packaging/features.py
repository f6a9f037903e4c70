"""The features of raw samples, as a cache would have stored them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing

import numpy as np
import torch
from torch import Tensor

from featcache.batch import Features
from featcache.cache.layout import Unit
from featcache.cache.quantise import dequantise, quantise
from featcache.encoders.base import Encoded
from featcache.errors import EncoderError
from featcache.extraction import tokens
from featcache.extraction.feed import ViewDataset, auto_workers, feed
from featcache.extraction.forward import Forward
from featcache.extraction.view_transform import ViewTransform
from featcache.extraction.walk import plan_batches
from featcache.packaging.package import Package
from featcache.sources.base import Source
from featcache.specs import ViewSpec

BATCH = 64
"""Samples in a forward pass."""

_TYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


def batches(
    forward: Forward, package: Package, source: Source
) -> Iterator[tuple[range, Mapping[int, str], Features | None]]:
    """Yield rows in order, the reasons of those that cannot be read, and the features of the others."""
    if not len(source):
        yield range(0), {}, None
        return
    transform = ViewTransform(forward.encoder.transform, source.modality, ViewSpec())
    asked = [*plan_batches([Unit(0, 0, 0, len(source))], 1, BATCH)]
    dataset = ViewDataset(source, transform, ("eval",), asked)
    with closing(feed(dataset, auto_workers(len(source)), forward.device)) as arriving:
        for loaded in arriving:
            ids = [source.ids[row] for row in loaded.rows if row not in loaded.failed]
            features = as_stored(forward(loaded.inputs), package, ids) if ids else None
            yield loaded.rows, loaded.failed, features


def as_stored(encoded: Encoded, package: Package, ids: Sequence[str]) -> Features:
    """Round a model's output to the type of the run's cache; int8 tokens become float32, as in training.

    Raises EncoderError that names the sample if a value is not finite.
    """
    layer = package.layer
    rounded = encoded._replace(
        tokens={layer: _tokens(encoded.tokens[layer].float(), package)},
        geometry={layer: encoded.geometry[layer]},
        pooled=encoded.pooled.to(_TYPES.get(package.dtype, torch.float16)),
    )
    tokens.check(rounded, ids)
    return Features(rounded.tokens[layer], rounded.mask, rounded.pooled)


def _tokens(values: Tensor, package: Package) -> Tensor:
    if package.dtype != "int8":
        return values.to(_TYPES[package.dtype])
    std = np.array(package.std, np.float32)
    if len(std) != values.shape[-1]:
        raise EncoderError(
            "the divisors of int8 tokens in the package do not fit its frozen model",
            got=f"{len(std)} numbers",
            expected=f"{values.shape[-1]}, one for each dimension",
        )
    return torch.from_numpy(dequantise(*quantise(values.numpy(), std), std))
