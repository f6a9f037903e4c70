"""The contract of an encoder (a transform of one sample, the tokens of a batch), and what families share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from featcache.specs import EncoderSpec

Inputs = Mapping[str, Tensor]
"""What the transform makes of one sample, and (stacked along a new first axis) what `encode` takes."""


class Geometry(NamedTuple):
    """Where a layer's tokens come from: `prefix` tokens (CLS, registers), then a row-major grid, if any."""

    prefix: int
    grid: tuple[int, int] | None


Layer = tuple[Tensor, Geometry]
"""Tokens (B, T, D) of one layer, and where they come from."""


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


class FrozenEncoder:
    """The part of an Encoder that every family has: one module, in evaluation mode, without gradients."""

    templates: tuple[str, ...] = ()

    def __init__(
        self, module: nn.Module, spec: EncoderSpec, transform: Callable[[Any], dict[str, Tensor]]
    ) -> None:
        self.module: Any = module.eval().requires_grad_(False)
        self.spec, self.transform = spec, transform
        self.device = torch.device("cpu")

    def to(self, device: torch.device) -> None:
        """Move the module; inputs follow by themselves."""
        self.module.to(device)
        self.device = device

    def encode_text(self, texts: Sequence[str]) -> Tensor | None:
        """None: there is no text tower."""
        return None

    def on_device(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The inputs where the module is."""
        return {name: value.to(self.device, non_blocking=True) for name, value in inputs.items()}


@dataclass(frozen=True)
class Keyed:
    """A transform to one tensor, as the transform to a dict of tensors that an Encoder has."""

    key: str
    transform: Callable[[Any], Tensor]

    def __call__(self, data: Any) -> dict[str, Tensor]:
        return {self.key: self.transform(data)}


def weights_digest(module: nn.Module) -> str:
    """SHA-256 (hex) over the names, dtypes, shapes and bytes of the state dict, in the order of the names.

    >>> one, two = nn.Linear(2, 2), nn.Linear(2, 2)
    >>> weights_digest(one) == weights_digest(two)
    False
    >>> two.load_state_dict(one.state_dict())
    <All keys matched successfully>
    >>> weights_digest(one) == weights_digest(two)
    True
    """
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(json.dumps([name, str(value.dtype), list(value.shape)]).encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def from_map(feature_map: Tensor, prefix: Tensor | None = None) -> Layer:
    """A feature map (B, C, H, W) behind its prefix tokens (B, P, C), as tokens (B, P + H W, C), row by row.

    >>> tokens, geometry = from_map(torch.zeros(2, 5, 3, 4), torch.zeros(2, 1, 5))
    >>> tuple(tokens.shape), geometry
    ((2, 13, 5), Geometry(prefix=1, grid=(3, 4)))
    """
    grid = (feature_map.shape[-2], feature_map.shape[-1])
    patches = feature_map.flatten(2).transpose(1, 2)
    if prefix is None:
        return patches, Geometry(0, grid)
    return torch.cat([prefix, patches], dim=1), Geometry(prefix.shape[1], grid)


def masked_mean(tokens: Tensor, mask: Tensor | None) -> Tensor:
    """The mean (B, D) over the real tokens of (B, T, D); zeros for a sample without any.

    >>> masked_mean(torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([[True, True, False]]))
    tensor([[2.]])
    """
    if mask is None:
        return tokens.mean(dim=1)
    total = tokens.masked_fill(~mask.unsqueeze(-1), 0).sum(dim=1)
    return total / mask.sum(dim=1, keepdim=True).clamp(min=1)
