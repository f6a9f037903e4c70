"""Unsupervised finetuning: contrast on unlabelled samples, with source replay and mixing (arXiv 2110.09510).

    loss = nce + w_mix nce_mix + w_keep keep

    nce     = 1/2 [NCE(u, v) + NCE(v, u)],   NCE(u, v) = -E_i log softmax_j(cos(u_i, v_j) / tau) at j = i
    nce_mix = -E_i [l_i log p(i | m_i) + (1 - l_i) log p(k_i | m_i)],  p(j | m) = softmax_j(cos(m, v_j) / tau)
    keep    = E_S [1 - cos(z/|z| - c, z*/|z*| - c)] / tau

- u = h(z) and v = h(z) of two cached views of the same sample, (N, d): weak and strong, or the nearest to
  them that is cached. h is the contrast head, a residual layer that starts as the identity on t(z) =
  sqrt(d) (z/|z| - c) / |z/|z| - c|, and serves the contrast alone; c is the mean of z/|z| at step 0.
  log N - nce bounds I(u; v) from below;
- sparse source replay: the batch holds S samples of a second cache (data.replay), data.replay_ratio for each
  target sample. In nce they are further samples, and so further negatives; keep holds them where they were;
- mixing: m is h of the projected convex mix l x_i + (1 - l) x_k of target sample i with another one, k, drawn
  evenly among the other target samples and all S of the source, l ~ Beta(alpha, alpha). Which ones is decided
  by (seed, step) and the sample's place in the unlabelled set, not by the order of the batch.

All terms are in nats; `source_share` is S / (N + S). `naive` is replay=false, mixing=false. Labels take no
part: after the last step the class head is fitted on the labelled samples' z, as the `linear` probe is on z*.

Our readings: the paper contrasts with a momentum encoder and a queue, and mixes images; here the negatives
are those of the batch (SimCLR, arXiv 2002.05709, over keys of the other view only) and the mix is of token
sequences and z*, under the union of their masks, with the mixed target of i-Mix (arXiv 2010.08887). The paper
replays source samples through the contrast alone: `keep` is ours (w_keep=0 takes it away). Where one view is
all there is, only dropout tells the two apart (SimCSE, arXiv 2104.08821). Without a second cache there is
nothing to replay, and mixing is among target samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import pydantic
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from featcache.batch import Batch, Features, Views
from featcache.config import Config
from featcache.nn.heads import SCALE
from featcache.nn.init import centred, linear, spread, unit, zero_linear
from featcache.objectives._probes import FLOOR
from featcache.objectives.base import Objective, ProbeData, Project, Task
from featcache.objectives.linear import Linear, LinearOptions


class UnsupervisedOptions(Config):
    """Options of unsupervised finetuning; neither replay nor mixing is the naive version."""

    replay: bool = True
    """Whether samples of the second cache, if one is named, are contrasted and kept in place."""
    mixing: bool = True
    """Whether mixes of two samples are contrasted as well."""
    tau: float = pydantic.Field(default=0.2, gt=0)
    """Temperature of the contrast."""
    alpha: float = pydantic.Field(default=1.0, gt=0)
    """Both parameters of the Beta distribution of l; 1 is uniform."""
    w_mix: float = pydantic.Field(default=1.0, ge=0)
    """Weight of the contrast of mixes."""
    w_keep: float = pydantic.Field(default=1.0, ge=0)
    """Weight of what holds source samples at their z*."""
    contrast_head: bool = True
    """Whether the contrast is taken behind a head of its own; without, on t(z)."""


class ContrastHead(nn.Module):
    """h(z) = z + W2 gelu(W1 z), (N, d) to (N, d), W2 = 0 at first."""

    def __init__(self, dim: int, generator: torch.Generator) -> None:
        super().__init__()
        self.first, self.second = linear(dim, dim, generator), zero_linear(dim, dim)

    def forward(self, z: Tensor) -> Tensor:
        change: Tensor = self.second(F.gelu(self.first(z)))
        return z + change


class Unsupervised(Objective[UnsupervisedOptions]):
    """A contrast head, and an affine class head on unit-length z that is fitted after the last step."""

    Options = UnsupervisedOptions
    probed: ClassVar[bool] = True
    start: Tensor
    center: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(self, options: UnsupervisedOptions, task: Task) -> None:
        super().__init__(options, task)
        generator = torch.Generator().manual_seed(task.seed)
        self.contrast = ContrastHead(task.dim, generator) if options.contrast_head else nn.Identity()
        self.register_buffer("start", task.center.detach().clone())
        # Until it is fitted, the class head is the cosine head that other objectives start with.
        self.register_buffer("center", task.center.detach().clone())
        self.register_buffer("weight", SCALE * unit(task.class_init.detach().float()))
        self.register_buffer("bias", torch.zeros(task.num_classes))

    def views(self, available: Sequence[str]) -> Views:
        """Two views of each sample; of the labelled ones, without their label, if there are no others."""
        weak = "weak" if "weak" in available else "eval"
        other = "strong" if "strong" in available else weak
        pair = (weak,) if other == "eval" else (weak, other)
        source = pair if self.options.replay or self.options.mixing else ()
        return Views((), pair, source) if self.task.num_unlabelled else Views(pair, (), source)

    def forward(
        self, project: Project, batch: Batch, progress: float, generator: torch.Generator
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The loss; its terms are `nce`, and `nce_mix`, `keep` and `source_share` where they apply."""
        own = batch.unlabelled or batch.labelled
        count, source = len(own[0].pooled), batch.replay
        if not (self.options.replay or self.options.mixing):
            source = ()
        first, second = joined(own[0], *source[:1]), joined(own[-1], *source[-1:])
        z = project(first)
        u, v = self._head(z), self._head(project(second))
        seen = len(u) if self.options.replay else count
        loss = nce = (
            info_nce(u[:seen], v[:seen], self.options.tau) + info_nce(v[:seen], u[:seen], self.options.tau)
        ) / 2
        terms = {"nce": nce}
        if self.options.mixing:
            order = batch.unlabelled_index if batch.unlabelled else torch.arange(count, device=u.device)
            partner, share = draw_partners(order, len(u), self.options.alpha, generator)
            m = self._head(project(mixed(first, partner, share)))
            terms["nce_mix"] = info_nce(m, v, self.options.tau, mixed_targets(partner, share, len(v)))
            loss = loss + self.options.w_mix * terms["nce_mix"]
        if self.options.replay and source:
            frozen = first.pooled[count:].to(z.dtype)
            kept = _cosine(centred(z[count:], self.start), centred(frozen, self.start))
            terms["keep"] = (1 - kept).mean() / self.options.tau
            loss = loss + self.options.w_keep * terms["keep"]
        if source:
            terms["source_share"] = nce.new_tensor(1 - count / len(u))
        return loss, {name: value.detach() for name, value in terms.items()}

    def logits(self, z: Tensor) -> Tensor:
        """(B, d) to (B, C): the affine class head on z of length one, centred until it is fitted."""
        with torch.autocast(z.device.type, enabled=False):
            return F.linear(centred(z.to(self.weight.dtype), self.center), self.weight, self.bias)

    def finish(self, z: Tensor, label: Tensor) -> None:
        """Fit the class head as the `linear` probe is fitted; a class without labels gets the floor."""
        data = ProbeData(z.float(), label, self.task.num_classes, None)
        fitted = Linear(LinearOptions()).fit_map(data, self.task.seed)
        self.center.zero_()
        self.weight.zero_()
        self.bias.fill_(float(np.log(FLOOR)))
        self.weight[fitted.classes] = fitted.weight.to(self.weight)
        self.bias[fitted.classes] = fitted.bias.to(self.bias)

    def _head(self, z: Tensor) -> Tensor:
        h: Tensor = self.contrast(spread(z, self.start))
        return h


def info_nce(query: Tensor, key: Tensor, tau: float, target: Tensor | None = None) -> Tensor:
    """-E_i sum_j target_ij log softmax_j(cos(query_i, key_j) / tau), a scalar in nats: (M, d) and (N, d).

    `target` is (M, N), rows that sum to one; by default query i belongs to key i (arXiv 1807.03748).

    >>> info_nce(torch.eye(2), torch.eye(2), tau=1.0)
    tensor(0.3133)
    """
    with torch.autocast(query.device.type, enabled=False):
        wide = torch.promote_types(query.dtype, torch.float32)
        scores = unit(query.to(wide)) @ unit(key.to(wide)).mT / tau
    index = torch.arange(len(query), device=query.device)
    return F.cross_entropy(scores, index if target is None else target.to(scores))


def draw_partners(
    order: Tensor, pool: int, alpha: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """For each of N target samples another one of the `pool` (of which it is one of the first N), and l.

    The draw is made in the order of `order` (N,), so that the order within the batch does not matter. Returns
    (N,) int64 places within the pool and (N,) float32 shares; a pool of one is its own partner.
    """
    # numpy, as torch's Beta takes no generator; its seed is known without waiting for the device.
    rng = np.random.default_rng(generator.initial_seed())
    offset = rng.integers(1, max(2, pool), len(order))
    share = torch.from_numpy(rng.beta(alpha, alpha, len(order))).float().to(order.device)
    place = order.argsort(stable=True)
    rank = torch.cat([place, torch.arange(len(order), pool, device=order.device)])
    step = (torch.arange(len(order)) + torch.from_numpy(offset)).to(order.device) % pool
    partner, shares = torch.empty_like(place), torch.empty_like(share)
    partner[place], shares[place] = rank[step], share
    return partner, shares


def mixed_targets(partner: Tensor, share: Tensor, keys: int) -> Tensor:
    """(M, keys) float32: `share` on the sample itself and the rest on its partner.

    >>> mixed_targets(torch.tensor([2]), torch.tensor([0.75]), 3)
    tensor([[0.7500, 0.0000, 0.2500]])
    """
    index = torch.arange(len(partner), device=partner.device)
    table = share.new_zeros(len(partner), keys)
    table[index, index] = share
    return table.scatter_add(1, partner[:, None], 1 - share[:, None])


def mixed(features: Features, partner: Tensor, share: Tensor) -> Features:
    """share x_i + (1 - share) x_partner of the first samples: tokens, z*, float32 or wider; masks united."""
    count, mask = len(partner), features.mask
    tokens = features.tokens if mask is None else features.tokens.masked_fill(~mask.unsqueeze(-1), 0.0)
    return Features(
        _convex(tokens[:count], tokens[partner], share[:, None, None]),
        None if mask is None else mask[:count] | mask[partner],
        _convex(features.pooled[:count], features.pooled[partner], share[:, None]),
    )


def joined(*parts: Features) -> Features:
    """Rows of several batches as one; shorter token sequences are padded, and masked there."""
    longest = max(part.tokens.shape[1] for part in parts)
    masked = any(part.mask is not None or part.tokens.shape[1] < longest for part in parts)
    if len(parts) == 1:
        return parts[0]
    with torch.autocast(parts[0].pooled.device.type, enabled=False):  # it refuses float16 on a CPU
        return Features(
            torch.cat([F.pad(part.tokens, (0, 0, 0, longest - part.tokens.shape[1])) for part in parts]),
            torch.cat([_padded_mask(part, longest) for part in parts]) if masked else None,
            torch.cat([part.pooled for part in parts]),
        )


def _padded_mask(part: Features, length: int) -> Tensor:
    mask = part.tokens.new_ones(part.tokens.shape[:2], dtype=torch.bool) if part.mask is None else part.mask
    return F.pad(mask, (0, length - mask.shape[1]))


def _convex(a: Tensor, b: Tensor, share: Tensor) -> Tensor:
    wide = torch.promote_types(a.dtype, torch.float32)
    return torch.lerp(b.to(wide), a.to(wide), share.to(wide))


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    return (unit(a) * unit(b)).sum(dim=-1)


objective = Unsupervised
