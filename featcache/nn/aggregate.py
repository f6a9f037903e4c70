"""Token aggregation: (B, T, D) tokens and a (B, T) mask to one (B, D) vector per sample.

Tokens outside the mask are ignored. Every sample needs at least one real token, which the projector ensures.
Each aggregation also has `start`, its result before the first step. The projector subtracts it to start at
the frozen representation.
"""

from __future__ import annotations

import math
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Pool = Literal["cls", "mean", "attention", "gem"]
GAIN = 3000.0
"""Factor on the attention score, divided by D, as the score is a sum over D coordinates."""


class Aggregation(nn.Module):
    """Maps (B, T, D) tokens and their (B, T) mask to (B, D)."""

    def start(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """Return the result of `forward` with the initial parameters."""
        return cast(Tensor, self(tokens, mask))


class Cls(Aggregation):
    """The first real token, which is the class token if the encoder has one.

    >>> Cls()(torch.tensor([[[9.0], [3.0], [1.0]]]), torch.tensor([[False, True, True]]))
    tensor([[3.]])
    """

    def forward(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        if mask is None:
            return tokens[:, 0]
        first = mask.int().argmax(dim=1)
        return tokens[torch.arange(len(tokens), device=tokens.device), first]


class Mean(Aggregation):
    """The mean over the real tokens.

    >>> Mean()(torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([[True, True, False]]))
    tensor([[2.]])
    """

    def forward(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        if mask is None:
            return tokens.mean(dim=1)
        kept = tokens.masked_fill(~mask.unsqueeze(-1), 0.0)
        return kept.sum(dim=1) / mask.sum(dim=1, keepdim=True)


class Attention(Aggregation):
    """A softmax-weighted mean: the weight of token t is proportional to exp(GAIN <query, norm(e_t)> / D).

    The learned query starts at zero, where this is the mean. Source: attention-based pooling with one head
    (Ilse et al., arXiv 1802.04712, eq. 7, with a linear score). The gain is ours. A few labels and many
    unlabelled samples suffice to learn which tokens matter. So the query must move much faster than the
    weights of the transformer, for every width and scale of the tokens.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.zeros(dim))

    def forward(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        return _weighted(tokens, self.weights(tokens, mask))

    def weights(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """Return the weights (B, T) of the tokens; they sum to one."""
        normed = F.layer_norm(tokens, tokens.shape[-1:])
        score = (normed @ self.query).to(tokens.dtype)  # autocast may return half precision
        return _hide(score * (GAIN / tokens.shape[-1]), mask).softmax(dim=1)

    def start(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        # Computed as in `forward`, as `Mean` differs from it in the last bit.
        return _weighted(tokens, _hide(torch.zeros_like(tokens[..., 0]), mask).softmax(dim=1))


class GeM(Aggregation):
    """A generalised mean for signed values: log(mean_t exp(p e_t)) / p per coordinate, one learned p > 0.

    The generalised mean (mean_t u_t^p)^(1/p) of GeM (Radenovic et al., arXiv 1711.02512, eq. 3) needs u > 0.
    Here u = exp(e), and a logarithm is taken of the result: log-sum-exp pooling (Pinheiro and Collobert,
    arXiv 1411.6228, eq. 6). It is smooth for every sign. It tends to the mean for p -> 0 and to the maximum
    for p -> infinity. p starts at 1 and stays above 0.01, where float32 still resolves the difference to the
    mean.
    """

    def __init__(self) -> None:
        super().__init__()
        self.log_p = nn.Parameter(torch.zeros(()))

    def forward(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        return self._pool(tokens, mask, self.log_p.clamp(min=math.log(0.01)).exp())

    def start(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        return self._pool(tokens, mask, torch.ones_like(self.log_p))

    def _pool(self, tokens: Tensor, mask: Tensor | None, p: Tensor) -> Tensor:
        """Return log(mean_t exp(p e_t)) / p over the real tokens."""
        if mask is None:
            return ((p * tokens).logsumexp(dim=1) - math.log(tokens.shape[1])) / p
        total = _hide(p * tokens, mask.unsqueeze(-1)).logsumexp(dim=1)
        return (total - mask.sum(dim=1, keepdim=True, dtype=total.dtype).log()) / p


def make(pool: Pool, dim: int) -> Aggregation:
    """Return the aggregation called `pool`, for tokens of width `dim`."""
    match pool:
        case "cls":
            return Cls()
        case "mean":
            return Mean()
        case "attention":
            return Attention(dim)
        case "gem":
            return GeM()


def _weighted(tokens: Tensor, weight: Tensor) -> Tensor:
    """Return the mean (B, D) of tokens by (B, T) weights."""
    return (weight.unsqueeze(-1) * tokens).sum(dim=1)


def _hide(score: Tensor, mask: Tensor | None) -> Tensor:
    """Set the scores of tokens outside the mask to minus infinity."""
    return score if mask is None else score.masked_fill(~mask, -math.inf)
