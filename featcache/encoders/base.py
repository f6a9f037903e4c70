"""What every encoder gives: a transform of one sample, and the tokens of a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from featcache.config import Config
from featcache.sources.base import Modality

Inputs = Mapping[str, Tensor]
"""What the transform makes of one sample, and (stacked along a new first axis) what `encode` takes."""


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


class Geometry(NamedTuple):
    """Where a layer's tokens come from: `prefix` tokens (CLS, registers), then a row-major grid, if any."""

    prefix: int
    grid: tuple[int, int] | None


class Encoded(NamedTuple):
    """One batch through the frozen model."""

    tokens: dict[int, Tensor]
    """By layer: (B, T, D), floating point."""
    mask: Tensor | None
    """(B, T) bool, True where a token is real; None where all samples have T tokens."""
    pooled: Tensor
    """(B, P): the model's own embedding of the sample (in the joint space where there is a text tower)."""
    geometry: dict[int, Geometry]


class Encoder(Protocol):
    """A frozen foundation model."""

    spec: EncoderSpec
    transform: Callable[[Any], dict[str, Tensor]]
    """One sample (PIL image or str) to fixed-shape tensors; picklable, without weights or randomness."""
    templates: tuple[str, ...]
    """Prompt templates for class names, each with one `{}`."""

    def to(self, device: torch.device) -> None:
        """Move the model; `encode` then takes inputs from anywhere."""

    def encode(self, inputs: Inputs, layers: Sequence[int]) -> Encoded:
        """Run the frozen model; `layers` counts from the end: -1 is the last."""

    def encode_text(self, texts: Sequence[str]) -> Tensor | None:
        """(n, P) embeddings in the space of `pooled`, not normalised; None where there is no text tower."""
