"""The words for what a cache holds: which frozen model, which views, which types of number."""

from __future__ import annotations

import re
from typing import Annotated, Literal

import pydantic

from featcache.config import Config

Modality = Literal["image", "text"]
ValueType = Literal["float16", "bfloat16", "float32"]
StoredType = Literal["float16", "bfloat16", "float32", "int8"]
Fraction = Annotated[float, pydantic.Field(ge=0, le=1)]
Count = Annotated[int, pydantic.Field(ge=0)]


def _token_choice(value: str) -> str:
    if not re.fullmatch(r"all|cls|patch|pooled|grid:[1-9]\d*x[1-9]\d*", value):
        raise ValueError("all, cls, patch, pooled or grid:HxW")
    return value


TokenChoice = Annotated[str, pydantic.AfterValidator(_token_choice)]
"""Which tokens of a layer are kept: all, cls, patch, pooled or grid:HxW."""


class EncoderSpec(Config):
    """Everything about a frozen model that changes the numbers it gives; part of a cache's identity."""

    name: str
    """As the user wrote it, for example `open_clip:ViT-B-32/laion2b_s34b_b79k`; of a path the last part only,
    so that a moved checkpoint is the same model still."""
    weights: str
    """SHA-256 over the parameters and buffers."""
    modality: Modality
    preprocess: str
    """The evaluation transform in words, every parameter included."""
    norm: str
    """What normalisation the last layer's tokens have been through, for example `ln_post` or `none`."""
    projection: str
    """What the pooled embedding is: for example `proj of CLS, 768 -> 512` or `mean of tokens`."""


class ViewSpec(Config):
    """Which views of a sample are cached: the evaluation view first, then the weak and the strong ones.

    >>> ViewSpec(weak=1, strong=2).names()
    ('eval', 'weak0', 'strong0', 'strong1')
    """

    weak: Count = 0
    """Number of weak views: flip and crop (images), token dropout (text)."""
    strong: Count = 0
    """Number of strong views: RandAugment and erasing on top of the weak view."""
    flip: Fraction = 0.5
    """Probability of a horizontal flip."""
    crop: Annotated[float, pydantic.Field(gt=0, le=1)] = 0.6
    """Smallest area of a random crop, as a fraction of the image."""
    magnitude: Count = 9
    """Magnitude of RandAugment."""
    num_ops: Count = 2
    """Operations per strong view in RandAugment."""
    erase: Fraction = 0.25
    """Probability of random erasing."""
    dropout: Fraction = 0.1
    """Probability of dropping a word of a text; twice that in strong views."""
    seed: int = 0
    """Seeds everything that is drawn."""

    def names(self) -> tuple[str, ...]:
        """Return the views in the order of the cache's view axis."""
        weak, strong = (f"weak{i}" for i in range(self.weak)), (f"strong{i}" for i in range(self.strong))
        return ("eval", *weak, *strong)
