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
from featcache.errors import ConfigError, option
from featcache.nn import aggregate
from featcache.nn.init import isometry, linear, zero_linear

SHORT = 64
"""Up to this many tokens, fused attention in bfloat16 on a CPU is up to six times slower than plain."""

ROUND = 128
"""Packed tokens are padded to a multiple of this, so that only few different numbers of rows occur."""


class ProjectorOptions(Config):
    """Size and aggregation of the projector."""

    depth: int = pydantic.Field(default=1, ge=1, le=100)
    """Transformer blocks."""
    heads: int = pydantic.Field(default=4, ge=1, le=1000)
    """Attention heads; their number must divide the token width."""
    mlp_ratio: float = pydantic.Field(default=2.0, gt=0, le=100)
    """Width of the hidden layer of each block, as a multiple of the token width."""
    pool: aggregate.Pool = "attention"
    """Aggregation of tokens to one vector: `cls` (the first token), `mean`, `attention` or `gem`."""
    dropout: float = pydantic.Field(default=0.0, ge=0, lt=1)
    """Share of each residual branch's outputs that is dropped in training, by torch's global generator."""


class Layout:
    """The layout of a batch's tokens: (B, T, D) with padding, or (N, D) almost without padding on a CPU.

    Most of a batch of texts is padding, and a block's cost is proportional to its tokens. On other devices
    tokens keep their padding: counting the real tokens would make the host wait for the device.
    """

    def __init__(self, mask: Tensor | None) -> None:
        self.visible = None if mask is None else mask[:, None, None, :]
        self.shape = None if mask is None else mask.shape
        packed = mask is not None and mask.device.type == "cpu" and not torch.compiler.is_compiling()
        self.index = _kept(mask.flatten()) if mask is not None and packed else None

    def pack(self, x: Tensor) -> Tensor:
        """Return (B, T, D) tokens in this layout."""
        return x if self.index is None else x.flatten(0, 1).index_select(0, self.index)

    def pad(self, x: Tensor) -> Tensor:
        """Return tokens of this layout as (B, T, D), with zeros for the padding that was left out."""
        if self.index is None or self.shape is None:
            return x
        flat = x.new_zeros(self.shape.numel(), x.shape[-1]).index_copy(0, self.index, x)
        return flat.view(*self.shape, -1)


def _kept(mask: Tensor) -> Tensor:
    """Return the positions of the real tokens in a flat mask, and of padding up to a multiple of ROUND.

    oneDNN compiles its bfloat16 kernels for each new number of rows, and keeps a thousand of them. After six
    trainings on texts of up to 32 tokens they took 2.4 GB, and 0.7 GB with few different numbers of rows.
    """
    real, padding = (flags.nonzero().squeeze(1) for flags in (mask, ~mask))
    return torch.cat([real, padding[: -len(real) % ROUND]])


class Block(nn.Module):
    """A pre-norm transformer block whose residual branches end in zeros, so it starts as the identity.

    Sources: pre-norm, Xiong et al., arXiv 2002.04745; residual branches that start at zero, Bachlechner et
    al., arXiv 2003.04887.
    """

    def __init__(self, dim: int, options: ProjectorOptions, generator: torch.Generator) -> None:
        super().__init__()
        hidden = max(1, round(options.mlp_ratio * dim))
        self.heads = options.heads
        self.attention_norm = nn.LayerNorm(dim)
        # No bias, as a bias of the keys does not change the softmax.
        self.qkv = linear(dim, 3 * dim, generator, bias=False)
        self.attention_out = zero_linear(dim, dim)
        self.mlp_norm = nn.LayerNorm(dim)
        self.mlp_in = linear(dim, hidden, generator)
        self.mlp_out = zero_linear(hidden, dim)
        self.dropout = nn.Dropout(options.dropout)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """Return (..., D) of (..., D) tokens, both in `layout`."""
        x = x + self.dropout(self.attention_out(self._attend(self.attention_norm(x), layout)))
        hidden = F.gelu(self.mlp_in(self.mlp_norm(x)))
        return x + cast(Tensor, self.dropout(self.mlp_out(hidden)))

    def _attend(self, x: Tensor, layout: Layout) -> Tensor:
        """Return multi-head self-attention over the real tokens of each sample."""
        padded = layout.pad(self.qkv(x))
        queries, keys, values = padded.view(*padded.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        with _kernel(queries):
            mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=layout.visible)
        return layout.pack(mixed.transpose(1, 2).flatten(2))


def _kernel(queries: Tensor) -> AbstractContextManager[None]:
    """Choose plain matrix products for attention of (B, h, T, D/h) where they are faster than fused."""
    plain = queries.device.type == "cpu" and queries.dtype == torch.bfloat16 and queries.shape[2] <= SHORT
    return sdpa_kernel(SDPBackend.MATH) if plain else nullcontext()


class Projector(nn.Module):
    """Maps tokens E (B, T, D) and the cached pooled embedding z* (B, P) to the adapted z (B, P).

        z = z* + W (agg(E') - agg_0(E))

    where E' is the transformer's output for E, and agg_0 is the aggregation before training. The branches of
    the transformer start at zero, so E' = E and z = z* exactly before the first step, for every aggregation.
    Training starts from the frozen model. W is the identity if D = P, and otherwise a learned matrix that
    starts orthogonal.

    >>> projector = Projector(ProjectorOptions(), 8, 8, torch.Generator().manual_seed(0))
    >>> features = Features(torch.randn(2, 5, 8), None, torch.randn(2, 8))
    >>> bool((projector(features) == features.pooled).all())
    True
    """

    def __init__(
        self, options: ProjectorOptions, dim: int, pooled_dim: int, generator: torch.Generator
    ) -> None:
        """Draw initial values from `generator`, a CPU one; raise ConfigError if heads do not divide D."""
        super().__init__()
        if dim % options.heads:
            fitting = [heads for heads in range(1, 17) if dim % heads == 0]
            raise ConfigError(
                "the projector's attention heads do not divide the token width",
                got=f"heads={options.heads}, width {dim}",
                expected=f"one of {fitting}",
                hint=f"pass {option('projector.heads', max(n for n in fitting if n <= options.heads))}",
            )
        self.blocks = nn.ModuleList(Block(dim, options, generator) for _ in range(options.depth))
        self.aggregate = aggregate.make(options.pool, dim)
        self.widen = nn.Identity() if dim == pooled_dim else isometry(dim, pooled_dim, generator)

    def forward(self, features: Features) -> Tensor:
        """Return z (B, P) in the parameters' dtype; tokens outside the mask are ignored."""
        tokens, adapted, mask = self._adapt(features)
        return self.combine(features.pooled.to(tokens.dtype), tokens, adapted, mask)

    @property
    def weighs_tokens(self) -> bool:
        """True if the aggregation learns weights of the tokens, so that `attention` returns them."""
        return isinstance(self.aggregate, aggregate.Attention)

    def attention(self, features: Features) -> Tensor:
        """Return the weights (B, T) of the tokens in the aggregation; raises TypeError if it has none.

        >>> projector = Projector(ProjectorOptions(), 8, 8, torch.Generator().manual_seed(0))
        >>> projector.attention(Features(torch.randn(1, 4, 8), None, torch.randn(1, 8)))
        tensor([[0.2500, 0.2500, 0.2500, 0.2500]], grad_fn=<SoftmaxBackward0>)
        """
        if not isinstance(self.aggregate, aggregate.Attention):
            raise TypeError(f"{type(self.aggregate).__name__} has no weights of tokens")
        _, adapted, mask = self._adapt(features)
        return self.aggregate.weights(adapted, mask)

    def _adapt(self, features: Features) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the tokens E and E' (B, T, D), and the mask (B, T) with a real token in each sample."""
        dtype = next(self.parameters()).dtype
        tokens, mask = features.tokens.to(dtype), features.mask
        if mask is not None:
            # Set to zero as well as masked, as padding may hold NaN. A sample that is all padding is read as
            # zeros, because a softmax over nothing is NaN.
            tokens = tokens.masked_fill(~mask.unsqueeze(-1), 0.0)
            mask = mask | ~mask.any(dim=1, keepdim=True)
        layout = Layout(mask)
        adapted = layout.pack(tokens)
        for block in self.blocks:
            adapted = block(adapted, layout)
        return tokens, layout.pad(adapted), mask

    def combine(self, pooled: Tensor, tokens: Tensor, adapted: Tensor, mask: Tensor | None) -> Tensor:
        """Return z from z*, E and E', by the formula of the class."""
        change = self.aggregate(adapted, mask) - self.aggregate.start(tokens, mask)
        return pooled + cast(Tensor, self.widen(change))
