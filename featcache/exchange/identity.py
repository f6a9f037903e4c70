"""What an imported cache says of its model: only what the user said, and that nobody has checked it."""

from __future__ import annotations

from featcache.specs import EncoderSpec

SAID = "said, not verified"
"""Stands for the digest of the weights where a user said which model made the embeddings."""
UNKNOWN = "not known"
"""Begins the same where nobody said it; a digest of the embeddings follows, so that no two are the same."""
_NAME = "unknown model"


def encoder_of(model: str | None, content: str, *, mean: bool, existing: EncoderSpec | None) -> EncoderSpec:
    """Return the identity of the model that made some embeddings.

    `model` is what the user said of it. Two imports of which the same is said are taken as compatible, which
    nothing verifies. If nothing is said, the identity holds the digest `content` of the first split: such a
    cache fits only itself, and embeddings that the user adds to the same cache.

    >>> encoder_of("UNI2-h", "", mean=False, existing=None).weights
    'said, not verified'
    """
    weights = SAID if model else f"{UNKNOWN}; embeddings {content[:16]}"
    if model is None and existing is not None and existing.weights.startswith(UNKNOWN):
        weights = existing.weights
    return EncoderSpec(
        name=model or _NAME,
        weights=weights,
        modality="unknown",
        preprocess=UNKNOWN,
        norm=UNKNOWN,
        projection="mean of tokens" if mean else "as imported",
    )


def is_imported(encoder: EncoderSpec) -> bool:
    """Return True for the identity of an import."""
    return encoder.weights == SAID or encoder.weights.startswith(UNKNOWN)
