"""The types that describe the content of a cache: model, views and number types."""

from __future__ import annotations

import hashlib
import re
from typing import Annotated, Literal

import pydantic

from featcache.config import Config

Modality = Literal["image", "text"]
ValueType = Literal["float16", "bfloat16", "float32"]
StoredType = Literal["float16", "bfloat16", "float32", "int8"]
Fraction = Annotated[float, pydantic.Field(ge=0, le=1)]
NO_WEIGHTS = hashlib.sha256().hexdigest()
"""The digest of a model that has neither parameters nor buffers."""
Count = Annotated[int, pydantic.Field(ge=0, le=10**12)]
"""A number of things that a machine may hold."""
Number = Annotated[int, pydantic.Field(gt=0, le=10**12)]
SEED_LIMIT = 2**63 - 1


def _token_choice(value: str) -> str:
    if not re.fullmatch(r"all|cls|patch|pooled|grid:[1-9]\d*x[1-9]\d*", value):
        raise ValueError("all, cls, patch, pooled or grid:HxW")
    return value


TokenChoice = Annotated[str, pydantic.AfterValidator(_token_choice)]
"""The tokens of a layer to keep: all, cls, patch, pooled or grid:HxW."""


SAID = "said, not verified"
"""Stands for the digest of the weights where a user said which model made imported embeddings."""
NOT_KNOWN = "not known"
"""Begins the same where nobody said it; a digest of the embeddings follows, so that no two are the same."""


class EncoderSpec(Config):
    """Everything that determines the output of a frozen model; part of a cache's identity."""

    name: str
    """The name as the user wrote it, for example `open_clip:ViT-B-32/laion2b_s34b_b79k`. Only the last
    part of a path is kept, so that a moved checkpoint remains the same model."""
    weights: str
    """SHA-256 of the parameters and buffers, and of the files that a `python:` model says it reads; for
    imported embeddings, the words that it is not known."""
    modality: Modality | Literal["unknown"]
    """Unknown for embeddings that were imported."""
    preprocess: str
    """The evaluation transform with all its parameters, as text."""
    norm: str
    """The normalisation of the last layer's tokens, for example `ln_post` or `none`."""
    projection: str
    """The pooled embedding, for example `proj of CLS, 768 -> 512` or `mean of tokens`."""

    @property
    def imported(self) -> bool:
        """True for embeddings that were imported: their model was not seen, it is said or not known."""
        return self.weights == SAID or self.weights.startswith(NOT_KNOWN)

    def weights_text(self) -> str:
        """Describe the weights in a few words: the first digits of their digest, if they are known."""
        if self.weights == NO_WEIGHTS:
            return "no weights"
        known = re.fullmatch("[0-9a-f]{64}", self.weights)
        return f"weights {self.weights[:12]}" if known else self.weights


Views = Annotated[int, pydantic.Field(ge=0, le=1000)]


class ViewSpec(Config):
    """The views of a sample to cache: the evaluation view, then weak and strong views.

    >>> ViewSpec(weak=1, strong=2).names()
    ('eval', 'weak0', 'strong0', 'strong1')
    """

    weak: Views = 0
    """Number of weak views: flip and crop (images), token dropout (text)."""
    strong: Views = 0
    """Number of strong views: RandAugment and erasing on top of the weak view."""
    flip: Fraction = 0.5
    """Probability of a horizontal flip."""
    crop: Annotated[float, pydantic.Field(gt=0, le=1)] = 0.6
    """Smallest area of a random crop, as a fraction of the image."""
    magnitude: Annotated[int, pydantic.Field(ge=0, le=30)] = 9
    """Magnitude of RandAugment."""
    num_ops: Annotated[int, pydantic.Field(ge=0, le=100)] = 2
    """Number of operations of RandAugment in a strong view."""
    erase: Fraction = 0.25
    """Probability of random erasing."""
    dropout: Fraction = 0.1
    """Probability of dropping a word of a text; twice that in strong views."""
    seed: Annotated[int, pydantic.Field(ge=-SEED_LIMIT, le=SEED_LIMIT)] = 0
    """Seed of all random augmentations."""

    def names(self) -> tuple[str, ...]:
        """Return the views in the order of the cache's view axis."""
        weak, strong = (f"weak{i}" for i in range(self.weak)), (f"strong{i}" for i in range(self.strong))
        return ("eval", *weak, *strong)
