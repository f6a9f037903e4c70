"""The projector: a small transformer over cached tokens that starts as the frozen representation itself."""

from __future__ import annotations

from typing import cast

import pydantic
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from featcache.config import Config
from featcache.errors import ConfigError
from featcache.nn import aggregate
from featcache.nn.init import isometry, linear, zero_linear
from featcache.objectives.base import Features


class ProjectorOptions(Config):
    """Size and aggregation of the projector."""

    depth: int = pydantic.Field(default=1, ge=1)
    """Transformer blocks."""
    heads: int = pydantic.Field(default=4, ge=1)
    """Attention heads; must divide the token width."""
    mlp_ratio: float = pydantic.Field(default=2.0, gt=0)
    """Width of the hidden layer of each block, as a multiple of the token width."""
    pool: aggregate.Pool = "attention"
    """How tokens become one vector: `cls` (the first token), `mean`, `attention` or `gem`."""
    dropout: float = pydantic.Field(default=0.0, ge=0, lt=1)
    """Share of each residual branch's outputs dropped in training; drawn from torch's global generator."""


class Block(nn.Module):
    """A pre-norm transformer block whose residual branches end in zeros, so that it starts as the identity.

    Source: pre-norm, Xiong et al., arXiv 2002.04745; branches that start at zero, Bachlechner et al.,
    arXiv 2003.04887.
    """

    def __init__(self, dim: int, options: ProjectorOptions, generator: torch.Generator) -> None:
        super().__init__()
        hidden = max(1, round(options.mlp_ratio * dim))
        self.heads = options.heads
        self.attention_norm = nn.LayerNorm(dim)
        # No bias: softmax cannot see one on the keys.
        self.qkv = linear(dim, 3 * dim, generator, bias=False)
        self.attention_out = zero_linear(dim, dim)
        self.mlp_norm = nn.LayerNorm(dim)
        self.mlp_in = linear(dim, hidden, generator)
        self.mlp_out = zero_linear(hidden, dim)
        self.dropout = nn.Dropout(options.dropout)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, T, D) to (B, T, D); tokens outside the (B, T) mask are never attended to."""
        x = x + self.dropout(self.attention_out(self._attend(self.attention_norm(x), mask)))
        hidden = F.gelu(self.mlp_in(self.mlp_norm(x)))
        return x + cast(Tensor, self.dropout(self.mlp_out(hidden)))

    def _attend(self, x: Tensor, mask: Tensor | None) -> Tensor:
        queries, keys, values = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        visible = None if mask is None else mask[:, None, None, :]
        mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=visible)
        return mixed.transpose(1, 2).flatten(2)


class Projector(nn.Module):
    """Tokens E (B, T, D) and the cached pooled embedding z* (B, P) to the adapted representation z (B, P).

        z = z* + W (agg(E') - agg_0(E))

    where E' is E through the transformer and agg_0 is the aggregation as it was before training. The
    transformer's branches start at zero, so E' = E and z = z* exactly before the first step, whatever the
    aggregation: training starts from the frozen model. W is the identity where D = P and otherwise a learned
    matrix that starts orthogonal.

    >>> projector = Projector(ProjectorOptions(), 8, 8, torch.Generator().manual_seed(0))
    >>> features = Features(torch.randn(2, 5, 8), None, torch.randn(2, 8))
    >>> bool((projector(features) == features.pooled).all())
    True
    """

    def __init__(
        self, options: ProjectorOptions, dim: int, pooled_dim: int, generator: torch.Generator
    ) -> None:
        """Initial values come from `generator` (a CPU one). Raises ConfigError if heads do not divide D."""
        super().__init__()
        if dim % options.heads:
            fitting = [heads for heads in range(1, 17) if dim % heads == 0]
            raise ConfigError(
                "the projector's attention heads do not divide the token width",
                got=f"heads={options.heads}, width {dim}",
                expected=f"one of {fitting}",
                hint=f"--set projector.heads={max(n for n in fitting if n <= max(options.heads, 1))}",
            )
        self.blocks = nn.ModuleList(Block(dim, options, generator) for _ in range(options.depth))
        self.aggregate = aggregate.make(options.pool, dim)
        self.widen = nn.Identity() if dim == pooled_dim else isometry(dim, pooled_dim, generator)

    def forward(self, features: Features) -> Tensor:
        """(B, P) in the parameters' dtype, whatever the cache's; tokens outside the mask do not count."""
        dtype = next(self.parameters()).dtype
        tokens, mask = features.tokens.to(dtype), features.mask
        if mask is not None:
            # Zero, not merely unattended: padding may hold anything, NaN included. A sample of padding only
            # is read as zeros, because a softmax over nothing is NaN.
            tokens = tokens.masked_fill(~mask.unsqueeze(-1), 0.0)
            mask = mask | ~mask.any(dim=1, keepdim=True)
        adapted = tokens
        for block in self.blocks:
            adapted = block(adapted, mask)
        return self.combine(features.pooled.to(dtype), tokens, adapted, mask)

    def combine(self, pooled: Tensor, tokens: Tensor, adapted: Tensor, mask: Tensor | None) -> Tensor:
        """z from z*, E and E': the formula of the class."""
        change = self.aggregate(adapted, mask) - self.aggregate.start(tokens, mask)
        return pooled + cast(Tensor, self.widen(change))
