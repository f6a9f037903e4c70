"""The contract of an encoder, and the parts from which plugins build one.

An encoder has a transform of one sample and returns the tokens of a batch. `FrozenEncoder`, `Keyed`,
`weights_digest`, `from_map` and `masked_mean` are for authors of encoders.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from featcache.errors import EncoderError
from featcache.specs import EncoderSpec

Inputs = Mapping[str, Tensor]
"""The transform's result for one sample; stacked along a new first axis, the input of `encode`."""


class Geometry(NamedTuple):
    """The positions of a layer's tokens: `prefix` tokens (CLS, registers), then a row-major grid, if any."""

    prefix: int
    grid: tuple[int, int] | None
    """(rows, columns)."""


Layer = tuple[Tensor, Geometry]
"""Tokens (B, T, D) of one layer, and their positions."""


class Encoded(NamedTuple):
    """The output of a frozen model for one batch."""

    tokens: dict[int, Tensor]
    """(B, T, D) by layer, floating point."""
    mask: Tensor | None
    """(B, T) bool, True where a token is real; None if all samples have T tokens."""
    pooled: Tensor
    """(B, P): the model's own embedding of the sample (in the joint space if there is a text tower)."""
    geometry: dict[int, Geometry]
    """By layer."""


class Encoder(Protocol):
    """A frozen foundation model."""

    spec: EncoderSpec
    transform: Callable[[Any], dict[str, Tensor]]
    """Maps one sample (PIL image or str) to tensors of fixed shapes; picklable, no weights, no randomness."""
    templates: tuple[str, ...]
    """Prompt templates for class names, each with one `{}`."""

    def to(self, device: torch.device) -> None:
        """Move the model; `encode` accepts inputs on any device."""

    def encode(self, inputs: Inputs, layers: Sequence[int]) -> Encoded:
        """Run the frozen model; `layers` are counted from the end: -1 is the last.

        Raise EncoderError for a layer that the model does not have.
        """

    def encode_text(self, texts: Sequence[str]) -> Tensor | None:
        """Return (n, P) embeddings in the space of `pooled`, not normalised; None without a text tower."""


class FrozenEncoder:
    """The common part of encoders: one module, in evaluation mode, without gradients."""

    templates: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    """What the user should know, such as weights that were left out."""

    def __init__(
        self, module: nn.Module, spec: EncoderSpec, transform: Callable[[Any], dict[str, Tensor]]
    ) -> None:
        self.module: Any = module.eval().requires_grad_(False)
        self.spec, self.transform = spec, transform
        self.device = torch.device("cpu")

    def to(self, device: torch.device) -> None:
        """Move the module; `on_device` moves the inputs."""
        self.module.to(device)
        self.device = device

    def encode_text(self, texts: Sequence[str]) -> Tensor | None:
        """Return None, as there is no text tower."""
        return None

    def save(self, folder: Path) -> str:
        """Write the model into a new folder; return the name under which its family loads it from there.

        The name is relative to what holds the folder. Raises EncoderError for a model that cannot be copied.
        """
        raise EncoderError(
            f"the weights of {self.spec.name} cannot be copied",
            expected="a model of open_clip, timm or Hugging Face",
        )

    def on_device(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the inputs on the device of the module."""
        return {name: value.to(self.device, non_blocking=True) for name, value in inputs.items()}


@dataclass(frozen=True)
class Keyed:
    """A transform to one tensor, wrapped as the transform to a dict of tensors that an Encoder has."""

    key: str
    transform: Callable[[Any], Tensor]

    def __call__(self, data: Any) -> dict[str, Tensor]:
        return {self.key: self.transform(data)}


def weights_digest(module: nn.Module) -> str:
    """Return the SHA-256 (hex) of names, dtypes, shapes and bytes of the state dict, in order of the names.

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
    """Return tokens (B, P + H W, C): prefix tokens (B, P, C), then a feature map (B, C, H, W) row by row.

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
    """Return the mean (B, D) over the real tokens of (B, T, D); zeros for a sample without real tokens.

    >>> masked_mean(torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([[True, True, False]]))
    tensor([[2.]])
    """
    if mask is None:
        return tokens.mean(dim=1)
    total = tokens.masked_fill(~mask.unsqueeze(-1), 0).sum(dim=1)
    return total / mask.sum(dim=1, keepdim=True).clamp(min=1)
