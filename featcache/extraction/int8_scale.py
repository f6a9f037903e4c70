"""How far each dimension of the tokens rms, which int8 tokens are divided by: a pilot before all else."""

from __future__ import annotations

from collections.abc import Iterable

from featcache.cache.quantise import RunningRms
from featcache.cache.spec import Shapes
from featcache.extraction.feed import Loaded
from featcache.extraction.forward import Forward

PILOT_ROWS = 512
"""Of the first split. Thousands of tokens settle a standard deviation to a percent, and more is not needed:
the scale of each token makes up for what is left."""


def token_std(shapes: Shapes, batches: Iterable[Loaded], forward: Forward) -> dict[int, list[float]]:
    """By layer, the D standard deviations of the real tokens of `batches`; nothing is written."""
    rms = {array.layer: RunningRms(array.dim) for array in shapes.layers}
    for loaded in batches:
        if not loaded.inputs:
            continue
        encoded = forward(loaded.inputs)
        for layer, tokens in encoded.tokens.items():
            real = tokens.flatten(0, 1) if encoded.mask is None else tokens[encoded.mask]
            rms[layer].add(real.float().cpu().numpy())
    return {layer: spread.std().tolist() for layer, spread in rms.items()}
