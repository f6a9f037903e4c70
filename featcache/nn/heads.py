"""Classifier heads on the projected representation."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from featcache.errors import TrainError
from featcache.nn.init import centred, unit

SCALE = 1 / 0.07
MAX_SCALE = 100.0


class CosineHead(nn.Module):
    """Logits scale * cos(z/|z| - m, w_c) [+ bias], with a fixed centre m (d,), zero by default.

    The directions w (C, d) and the scale, in [1, 100], are learned.

    The scale starts at 1/0.07 and is stored as its logarithm (CLIP, arXiv 2103.00020, section 2.5). A cosine
    classifier for few labels is FineSSL's (arXiv 2405.11756). A bias, shared by all classes, is for sigmoid
    losses only, as it does not change a softmax. Raises TrainError if all initial directions are zero.

    >>> CosineHead(torch.eye(2))(torch.tensor([[3.0, 0.0]])).detach().round(decimals=2)
    tensor([[14.2900,  0.0000]])
    """

    center: Tensor

    def __init__(
        self, weight: Tensor, center: Tensor | None = None, scale: float = SCALE, bias: float | None = None
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(_directions(weight))
        self.register_buffer(
            "center", torch.zeros_like(self.weight[0]) if center is None else center.detach().clone()
        )
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale), dtype=self.weight.dtype))
        self.bias = None if bias is None else nn.Parameter(torch.tensor(bias, dtype=self.weight.dtype))

    @property
    def scale(self) -> Tensor:
        """The factor on the cosine, a scalar."""
        return self.log_scale.clamp(0.0, math.log(MAX_SCALE)).exp()

    def forward(self, z: Tensor) -> Tensor:
        """Return (B, C) logits of z (B, d), in the weight's dtype even under autocast.

        Half precision would lose differences between large logits.
        """
        with torch.autocast(z.device.type, enabled=False):
            direction = centred(z.to(self.weight.dtype), self.center)
            logits = self.scale * F.linear(direction, unit(self.weight))
            return logits if self.bias is None else logits + self.bias


def _directions(weight: Tensor) -> Tensor:
    """Return unit rows; an unknown class (a row of zeros) starts opposite to the mean of the others.

    There it is not predicted at first, and it has a gradient, unlike a row of zeros. Several unknown classes
    get slightly different rows: with equal rows they would have equal gradients and stay equal.
    """
    rows = unit(weight.detach().clone().float())
    unknown = rows.norm(dim=1) < 0.5
    if bool(unknown.all()):
        raise TrainError(
            "no class has an initial direction",
            got="class embeddings that are all zero: no labels, or the same embedding in every class",
            expected="class-name embeddings, or labelled samples that differ by class",
        )
    rows[unknown] = -unit(rows[~unknown].mean(dim=0))
    if (several := int(unknown.sum())) > 1:
        apart = torch.randn(several, rows.shape[1], generator=torch.Generator().manual_seed(0))
        rows[unknown] = unit(rows[unknown] + 0.1 * unit(apart).to(rows))
    return rows
