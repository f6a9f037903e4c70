"""The standard deviation of each dimension of the tokens, which int8 tokens are divided by."""

from __future__ import annotations

from collections.abc import Iterable

from featcache.cache.quantise import RunningRms
from featcache.cache.spec import Shapes
from featcache.extraction.feed import Loaded
from featcache.extraction.forward import Forward

PILOT_ROWS = 512
"""Rows of the first split to measure on. Their tokens give a standard deviation to a percent.

More precision is not needed, as every token also has a scale of its own."""


def token_std(shapes: Shapes, batches: Iterable[Loaded], forward: Forward) -> dict[int, list[float]]:
    """Return the (D,) standard deviations by layer, over the real tokens of `batches`; nothing is written."""
    rms = {array.layer: RunningRms(array.dim) for array in shapes.layers}
    for loaded in batches:
        if not loaded.inputs:
            continue
        encoded = forward(loaded.inputs)
        for layer, tokens in encoded.tokens.items():
            real = tokens.flatten(0, 1) if encoded.mask is None else tokens[encoded.mask]
            rms[layer].add(real.float().cpu().numpy())
    return {layer: spread.std().tolist() for layer, spread in rms.items()}
