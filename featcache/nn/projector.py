"""The projector: a small transformer over cached tokens that starts as the frozen representation itself."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import cast

import pydantic
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from featcache.batch import Features
from featcache.config import Config
from featcache.errors import ConfigError
from featcache.nn import aggregate
from featcache.nn.init import isometry, linear, zero_linear

SHORT = 64
"""Tokens up to which torch's fused attention is up to six times slower than plain in bfloat16 on a CPU."""

ROUND = 128
"""Tokens without padding are brought to a multiple of this, so that few lengths of batch occur."""


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


class Layout:
    """How the tokens of a batch lie: (B, T, D) with their padding, or, on a CPU, (N, D) with next to none.

    Most of a batch of texts is padding, and a block costs what its tokens cost. On other devices tokens keep
    their padding, as the host would have to wait to learn how many there are.
    """

    def __init__(self, mask: Tensor | None) -> None:
        self.visible = None if mask is None else mask[:, None, None, :]
        self.shape = None if mask is None else mask.shape
        packed = mask is not None and mask.device.type == "cpu" and not torch.compiler.is_compiling()
        self.index = _kept(mask.flatten()) if mask is not None and packed else None

    def pack(self, x: Tensor) -> Tensor:
        """(B, T, D) tokens as they lie."""
        return x if self.index is None else x.flatten(0, 1).index_select(0, self.index)

    def pad(self, x: Tensor) -> Tensor:
        """The inverse: (B, T, D), with zeros for what was left out."""
        if self.index is None or self.shape is None:
            return x
        flat = x.new_zeros(self.shape.numel(), x.shape[-1]).index_copy(0, self.index, x)
        return flat.view(*self.shape, -1)


def _kept(mask: Tensor) -> Tensor:
    """Places of the real tokens in a flat mask, and of as much padding as makes them a multiple of ROUND.

    For every new number of rows oneDNN compiles its bfloat16 kernels anew, and keeps a thousand of them: six
    trainings on texts of up to 32 tokens left 2.4 GB behind, and 0.7 GB with few numbers of rows.
    """
    real, padding = (flags.nonzero().squeeze(1) for flags in (mask, ~mask))
    return torch.cat([real, padding[: -len(real) % ROUND]])


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

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """(..., D) to (..., D), tokens as `layout` has laid them out."""
        x = x + self.dropout(self.attention_out(self._attend(self.attention_norm(x), layout)))
        hidden = F.gelu(self.mlp_in(self.mlp_norm(x)))
        return x + cast(Tensor, self.dropout(self.mlp_out(hidden)))

    def _attend(self, x: Tensor, layout: Layout) -> Tensor:
        padded = layout.pad(self.qkv(x))
        queries, keys, values = padded.view(*padded.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        with _kernel(queries):
            mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=layout.visible)
        return layout.pack(mixed.transpose(1, 2).flatten(2))


def _kernel(queries: Tensor) -> AbstractContextManager[None]:
    """Attention of (B, h, T, D/h) as plain matrix products where those are faster, else as torch chooses."""
    plain = queries.device.type == "cpu" and queries.dtype == torch.bfloat16 and queries.shape[2] <= SHORT
    return sdpa_kernel(SDPBackend.MATH) if plain else nullcontext()


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
        layout = Layout(mask)
        adapted = layout.pack(tokens)
        for block in self.blocks:
            adapted = block(adapted, layout)
        return self.combine(features.pooled.to(dtype), tokens, layout.pad(adapted), mask)

    def combine(self, pooled: Tensor, tokens: Tensor, adapted: Tensor, mask: Tensor | None) -> Tensor:
        """z from z*, E and E': the formula of the class."""
        change = self.aggregate(adapted, mask) - self.aggregate.start(tokens, mask)
        return pooled + cast(Tensor, self.widen(change))
