"""Token aggregation: (B, T, D) tokens and a (B, T) mask to one (B, D) vector per sample.

Tokens outside the mask never count. Every sample needs one real token at least; the projector sees to it.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

Pool = Literal["cls", "mean", "attention", "gem"]


class Cls(nn.Module):
    """The first token, which is the class token of every encoder that has one."""

    def forward(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        return tokens[:, 0]


class Mean(nn.Module):
    """The mean over real tokens.

    >>> Mean()(torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([[True, True, False]]))
    tensor([[2.]])
    """

    def forward(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        if mask is None:
            return tokens.mean(dim=1)
        kept = tokens.masked_fill(~mask.unsqueeze(-1), 0.0)
        return kept.sum(dim=1) / mask.sum(dim=1, keepdim=True)


class Attention(nn.Module):
    """A softmax-weighted mean: weight of token t proportional to exp(<query, e_t> / sqrt(D)).

    The learned query starts at zero, where this is the mean. Source: attention-based pooling with one head
    (Ilse et al., arXiv 1802.04712, eq. 7, with a linear score).
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.zeros(dim))

    def forward(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        score = _hide(tokens @ self.query / math.sqrt(tokens.shape[-1]), mask)
        weight = score.softmax(dim=1)
        return (weight.unsqueeze(-1) * tokens).sum(dim=1)


class GeM(nn.Module):
    """A generalised mean for signed values: log(mean_t exp(p e_t)) / p per coordinate, one learned p > 0.

    The generalised mean (mean_t u_t^p)^(1/p) of GeM (Radenovic et al., arXiv 1711.02512, eq. 3) needs u > 0.
    Here u = exp(e), and the logarithm takes the result back: log-sum-exp pooling (Pinheiro and Collobert,
    arXiv 1411.6228, eq. 6). It is smooth for every sign, tends to the mean for p -> 0 and to the maximum for
    p -> infinity. p starts at 1 and stays above 0.01, where float32 still resolves the difference to the
    mean.
    """

    def __init__(self) -> None:
        super().__init__()
        self.log_p = nn.Parameter(torch.zeros(()))

    def forward(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        p = self.log_p.clamp(min=math.log(0.01)).exp()
        if mask is None:
            return ((p * tokens).logsumexp(dim=1) - math.log(tokens.shape[1])) / p
        total = _hide(p * tokens, mask.unsqueeze(-1)).logsumexp(dim=1)
        return (total - mask.sum(dim=1, keepdim=True, dtype=total.dtype).log()) / p


def make(pool: Pool, dim: int) -> nn.Module:
    """The aggregation called `pool`, over tokens of width `dim`: a module from (tokens, mask) to (B, dim)."""
    match pool:
        case "cls":
            return Cls()
        case "mean":
            return Mean()
        case "attention":
            return Attention(dim)
        case "gem":
            return GeM()


def _hide(score: Tensor, mask: Tensor | None) -> Tensor:
    return score if mask is None else score.masked_fill(~mask, -math.inf)
