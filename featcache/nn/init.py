"""Layers with initial values from an explicit generator, and vectors on the unit sphere."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def linear(fan_in: int, fan_out: int, generator: torch.Generator, bias: bool = True) -> nn.Linear:
    """Return a linear layer with Xavier-uniform weights and zero bias.

    >>> linear(3, 2, torch.Generator().manual_seed(0)).weight.shape
    torch.Size([2, 3])
    """
    layer = _empty(fan_in, fan_out, bias)
    nn.init.xavier_uniform_(layer.weight, generator=generator)
    return layer


def zero_linear(fan_in: int, fan_out: int) -> nn.Linear:
    """Return a linear layer of zeros, for a residual branch that adds nothing at first."""
    layer = _empty(fan_in, fan_out, bias=True)
    nn.init.zeros_(layer.weight)
    return layer


def isometry(fan_in: int, fan_out: int, generator: torch.Generator) -> nn.Linear:
    """Return a linear layer without bias: the identity, or a random (semi-)orthogonal matrix.

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
    """Return the rows of (..., d) at length one; a row of zeros stays zero.

    The minimum length of 1e-6 bounds the gradient of a row near zero. torch's default of 1e-12 does not.
    """
    return F.normalize(x, dim=-1, eps=1e-6)


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Return cos(a_i, b_i), (...), of the rows of two (..., d)."""
    return (unit(a) * unit(b)).sum(dim=-1)


def centred(x: Tensor, center: Tensor) -> Tensor:
    """Return (..., d) at length one, minus `center` (d,), at length one again: the input of a cosine.

    The length is removed first, because embeddings of some models differ in length by much. Otherwise the
    centre would have no effect on long ones.

    >>> centred(torch.tensor([[3.0, 0.0]]), torch.tensor([0.0, 1.0]))
    tensor([[ 0.7071, -0.7071]])
    """
    return unit(unit(x) - center)


def on_sphere(x: Tensor, center: Tensor) -> Tensor:
    """Return sqrt(d) centred(x, m), (..., d): on the sphere where the mean square of the coordinates is one.

    >>> on_sphere(torch.tensor([[3.0, 0.0]]), torch.zeros(2))
    tensor([[1.4142, 0.0000]])
    """
    return math.sqrt(x.shape[-1]) * centred(x, center)


def _empty(fan_in: int, fan_out: int, bias: bool) -> nn.Linear:
    """Return a layer without initial weights, whose bias is zero."""
    # Through the meta device, because a plain nn.Linear draws from the global generator.
    layer = nn.Linear(fan_in, fan_out, bias=bias, device="meta").to_empty(device="cpu")
    if bias:
        nn.init.zeros_(layer.bias)
    return layer
