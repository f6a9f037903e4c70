"""Layers whose initial values come from an explicit generator, never from torch's global one."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def linear(fan_in: int, fan_out: int, generator: torch.Generator, bias: bool = True) -> nn.Linear:
    """A linear layer with Xavier-uniform weights and zero bias.

    >>> linear(3, 2, torch.Generator().manual_seed(0)).weight.shape
    torch.Size([2, 3])
    """
    layer = _empty(fan_in, fan_out, bias)
    nn.init.xavier_uniform_(layer.weight, generator=generator)
    return layer


def zero_linear(fan_in: int, fan_out: int) -> nn.Linear:
    """A linear layer of zeros: the end of a residual branch that says nothing at first."""
    layer = _empty(fan_in, fan_out, bias=True)
    nn.init.zeros_(layer.weight)
    return layer


def isometry(fan_in: int, fan_out: int, generator: torch.Generator) -> nn.Linear:
    """A linear layer without bias that starts as the identity, or as a random (semi-)orthogonal matrix.

    >>> isometry(2, 2, torch.Generator()).weight.tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    layer = _empty(fan_in, fan_out, bias=False)
    if fan_in == fan_out:
        nn.init.eye_(layer.weight)
    else:
        nn.init.orthogonal_(layer.weight, generator=generator)
    return layer


def unit(x: Tensor) -> Tensor:
    """Rows of (..., d) at length one; a row of zeros stays zero.

    The floor of 1e-6 on the length bounds the gradient of a row near zero; torch's default of 1e-12 does not.
    """
    return F.normalize(x, dim=-1, eps=1e-6)


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Return cos(a_i, b_i), (...), of the rows of two (..., d)."""
    return (unit(a) * unit(b)).sum(dim=-1)


def centred(x: Tensor, center: Tensor) -> Tensor:
    """(..., d) at length one, minus `center` (d,), at length one again: what a cosine should be taken of.

    Length comes first, because the embeddings of some models differ in length by much, and a long one would
    hardly feel the centre.

    >>> centred(torch.tensor([[3.0, 0.0]]), torch.tensor([0.0, 1.0]))
    tensor([[ 0.7071, -0.7071]])
    """
    return unit(unit(x) - center)


def on_sphere(x: Tensor, center: Tensor) -> Tensor:
    """sqrt(d) centred(x, m): (..., d) on the sphere on which the mean square of the coordinates is one.

    >>> on_sphere(torch.tensor([[3.0, 0.0]]), torch.zeros(2))
    tensor([[1.4142, 0.0000]])
    """
    return math.sqrt(x.shape[-1]) * centred(x, center)


def _empty(fan_in: int, fan_out: int, bias: bool) -> nn.Linear:
    # Through the meta device, because a plain nn.Linear draws from the global generator.
    layer = nn.Linear(fan_in, fan_out, bias=bias, device="meta").to_empty(device="cpu")
    if bias:
        nn.init.zeros_(layer.bias)
    return layer
