"""The identity of a model that was not seen: only what the user said, and that nobody has checked it."""

from __future__ import annotations

from featcache.errors import CacheMismatch, option
from featcache.specs import NOT_KNOWN, SAID, EncoderSpec

UNNAMED = "unknown model"
"""The name of a model that nobody named."""


def encoder_of(model: str | None, content: str, *, mean: bool, existing: EncoderSpec | None) -> EncoderSpec:
    """Return the identity of the model that made some embeddings.

    `model` is what the user said of it. Two imports of which the same is said are taken as compatible, which
    nothing verifies. If nothing is said, the identity holds the digest `content` of the first split: such a
    cache fits only itself, and embeddings that the user adds to the same cache.

    Raise CacheMismatch if nothing is said of a cache whose `existing` model has a name.

    >>> encoder_of("UNI2-h", "", mean=False, existing=None).weights
    'said, not verified'
    """
    if model is None and existing is not None and existing.weights == SAID:
        raise CacheMismatch(
            "the cache holds embeddings of a named model",
            got=f"no {option('model')}",
            expected=option("model", existing.name),
            hint="name it, if the same model made these embeddings; else choose another "
            f"{option('out')}, or replace the cache with {option('overwrite', True)}",
        )
    weights = SAID if model else f"{NOT_KNOWN}; embeddings {content[:16]}"
    if model is None and existing is not None and existing.weights.startswith(NOT_KNOWN):
        weights = existing.weights
    return EncoderSpec(
        name=model or UNNAMED,
        weights=weights,
        modality="unknown",
        preprocess=NOT_KNOWN,
        norm=NOT_KNOWN,
        projection="mean of tokens" if mean else "as imported",
    )
