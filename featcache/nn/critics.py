"""Critics: small networks whose logit estimates a log density ratio."""

from __future__ import annotations

from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from featcache.nn.init import linear


class Critic(nn.Module):
    """A multilayer perceptron from (B, d) to (B,) logits that classifies samples as real (1) or fake (0).

    At the optimum of its binary cross-entropy the logit is log p_real(x) / p_fake(x) (Sugiyama et al., 2012;
    Goodfellow et al., arXiv 1406.2661, proposition 1). Spectral normalisation (arXiv 1802.05957) bounds the
    slope. Initial values come from `generator`.

    >>> Critic(3, torch.Generator().manual_seed(0))(torch.zeros(5, 3)).shape
    torch.Size([5])
    """

    def __init__(
        self, dim: int, generator: torch.Generator, hidden: int = 256, depth: int = 2, spectral: bool = False
    ) -> None:
        super().__init__()
        widths = [dim, *[hidden] * depth, 1]
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise(widths):
            layer = linear(fan_in, fan_out, generator)
            layers += [_bounded(layer, generator) if spectral else layer, nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.layers(x)).squeeze(-1)

    def frozen(self, x: Tensor) -> Tensor:
        """Return the same logits, with gradients for `x` but none for the critic's parameters."""
        parameters = {name: value.detach() for name, value in self.named_parameters()}
        return cast(Tensor, torch.func.functional_call(self, parameters, (x,)))


def _bounded(layer: nn.Linear, generator: torch.Generator) -> nn.Module:
    """Return the layer with spectral normalisation."""
    # spectral_norm draws its first singular vectors from the global generator only.
    seed = int(torch.randint(2**31, (), generator=generator))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return spectral_norm(layer)
