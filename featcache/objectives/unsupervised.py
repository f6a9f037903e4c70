"""Unsupervised finetuning: contrast on unlabelled samples, with replay and mixing (arXiv 2110.09510).

    loss = nce + w_mix nce_mix + w_keep keep

    nce     = 1/2 [NCE(u, v) + NCE(v, u)],   NCE(u, v) = -E_i log softmax_j(cos(u_i, v_j) / tau) at j = i
    nce_mix = -E_i [l_i log p(i | m_i) + (1 - l_i) log p(k_i | m_i)],  p(j | m) = softmax_j(cos(m, v_j) / tau)
    keep    = E_S [1 - cos(z/|z| - c, z*/|z*| - c)] / tau

- u = h(z) and v = h(z), (N, d), of two cached views of the same sample: weak and strong, or the nearest
  cached ones. log N - nce is a lower bound on I(u; v). The contrast head h is a residual layer on
  t(z) = sqrt(d) (z/|z| - c) / |z/|z| - c|. It starts as the identity, and only the contrast uses it. c is the
  mean of z/|z| at step 0;
- replay: the batch holds S samples of the replay cache (data.replay), data.replay_ratio for each target
  sample. In nce they are additional samples, and therefore additional negatives; keep holds them at their z*;
- mixing: m is h of the projected convex mix l x_i + (1 - l) x_k, with l ~ Beta(alpha, alpha). The partner k
  is drawn evenly among the other target samples and all S replay samples. Partner and l depend on
  (seed, step) and the sample's position in the unlabelled set, not on the order of the batch.

All terms are in nats; `replay_share` is S / (N + S). `naive` is replay=false, mixing=false. Labels are not
used in training. After the last step the class head is fitted on the labelled samples' z, as the `linear`
probe is fitted on z*.

Our readings. The paper contrasts with a momentum encoder and a queue; here the negatives come from the batch
(SimCLR, arXiv 2002.05709, over keys of the other view only). The paper mixes images; here token sequences and
z* are mixed, under the union of their masks, with the mixed target of i-Mix (arXiv 2010.08887). The paper
replays samples through the contrast only; `keep` is ours (w_keep=0 removes it). If only one view is cached,
the two views differ by dropout alone (SimCSE, arXiv 2104.08821). Without a replay cache nothing is replayed,
and mixing is among target samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import pydantic
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from featcache.batch import Batch, Features, Views, nearest_view
from featcache.config import Config
from featcache.mi.terms import cosine_scores, info_nce
from featcache.nn.heads import SCALE
from featcache.nn.init import centred, cosine, linear, on_sphere, unit, zero_linear
from featcache.objectives._fitting import FLOOR
from featcache.objectives.base import Objective, ProbeData, Project, Task
from featcache.objectives.linear import Linear, LinearOptions


class UnsupervisedOptions(Config):
    """Options of unsupervised finetuning; the naive version has neither replay nor mixing."""

    replay: bool = True
    """Contrast samples of the replay cache, if one is named, and keep them at their z*."""
    mixing: bool = True
    """Contrast mixes of two samples as well."""
    tau: float = pydantic.Field(default=0.2, gt=0)
    """Temperature of the contrast."""
    alpha: float = pydantic.Field(default=1.0, gt=0)
    """Both parameters of the Beta distribution of l; 1 is the uniform distribution."""
    w_mix: float = pydantic.Field(default=1.0, ge=0)
    """Weight of the contrast of mixes."""
    w_keep: float = pydantic.Field(default=1.0, ge=0)
    """Weight of `keep`, which holds replay samples at their z*."""
    contrast_head: bool = True
    """Contrast behind a head of its own; without, on t(z)."""


class ContrastHead(nn.Module):
    """h(z) = z + W2 gelu(W1 z), (N, d) to (N, d), with W2 = 0 at first."""

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
    """(d,): c, the mean of z/|z| at step 0."""
    center: Tensor
    """(d,): subtracted from unit-length z before the class head; zero once the head is fitted."""
    weight: Tensor
    """(C, d): weights of the class head."""
    bias: Tensor
    """(C,): biases of the class head."""

    def __init__(self, options: UnsupervisedOptions, task: Task) -> None:
        super().__init__(options, task)
        generator = torch.Generator().manual_seed(task.seed)
        self.contrast = ContrastHead(task.dim, generator) if options.contrast_head else nn.Identity()
        self.register_buffer("start", task.center.detach().clone())
        # Before it is fitted, the class head is the cosine head that other objectives start with.
        self.register_buffer("center", task.center.detach().clone())
        self.register_buffer("weight", SCALE * unit(task.class_init.detach().float()))
        self.register_buffer("bias", torch.zeros(task.num_classes))

    def views(self, available: Sequence[str]) -> Views:
        """Ask for two views of each unlabelled sample; of each labelled one if there are no others."""
        weak, other = nearest_view(available, "weak"), nearest_view(available, "strong", "weak")
        pair = (weak,) if other == "eval" else (weak, other)
        replay = pair if self.options.replay or self.options.mixing else ()
        return Views((), pair, replay) if self.task.num_unlabelled else Views(pair, (), replay)

    def forward(
        self, project: Project, batch: Batch, progress: float, generator: torch.Generator
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Return the loss and its terms: `nce`; `nce_mix`, `keep` and `replay_share` where they apply."""
        o = self.options
        target = batch.unlabelled if batch.has_unlabelled else batch.labelled
        replay = batch.replay if o.replay or o.mixing else ()
        count = len(target[0].pooled)
        first, second = joined(target[0], *replay[:1]), joined(target[-1], *replay[-1:])
        z = project(first)
        u, v = self._head(z), self._head(project(second))
        n = len(u) if o.replay else count
        loss = nce = (contrast(u[:n], v[:n], o.tau) + contrast(v[:n], u[:n], o.tau)) / 2
        terms = {"nce": nce}
        if o.mixing:
            order = batch.unlabelled_index if batch.has_unlabelled else torch.arange(count, device=u.device)
            partner, share = draw_partners(order, len(u), o.alpha, generator)
            m = self._head(project(mixed(first, partner, share)))
            terms["nce_mix"] = contrast(m, v, o.tau, mixed_targets(partner, share, len(v)))
            loss = loss + o.w_mix * terms["nce_mix"]
        if o.replay and replay:
            frozen = first.pooled[count:].to(z.dtype)
            kept = cosine(centred(z[count:], self.start), centred(frozen, self.start))
            terms["keep"] = (1 - kept).mean() / o.tau
            loss = loss + o.w_keep * terms["keep"]
        if replay:
            terms["replay_share"] = nce.new_tensor(1 - count / len(u))
        return loss, {name: value.detach() for name, value in terms.items()}

    def logits(self, z: Tensor) -> Tensor:
        """Return (B, C) logits of z (B, d): the affine class head on z of length one."""
        with torch.autocast(z.device.type, enabled=False):
            return F.linear(centred(z.to(self.weight.dtype), self.center), self.weight, self.bias)

    def finish(self, z: Tensor, label: Tensor) -> None:
        """Fit the class head as the `linear` probe; a class without labels gets the lowest probability."""
        data = ProbeData(z.float(), label, self.task.num_classes, None)
        fitted = Linear(LinearOptions()).fit_map(data, self.task.seed)
        self.center.zero_()
        self.weight.zero_()
        self.bias.fill_(float(np.log(FLOOR)))
        self.weight[fitted.classes] = fitted.weight.to(self.weight)
        self.bias[fitted.classes] = fitted.bias.to(self.bias)

    def _head(self, z: Tensor) -> Tensor:
        """Return h(z), (N, d)."""
        h: Tensor = self.contrast(on_sphere(z, self.start))
        return h


def contrast(query: Tensor, key: Tensor, tau: float, target: Tensor | None = None) -> Tensor:
    """Return `info_nce` of the cosines of (M, d) queries and (N, d) keys over tau, in float32 or wider.

    >>> contrast(torch.eye(2), torch.eye(2), tau=1.0)
    tensor(0.3133)
    """
    with torch.autocast(query.device.type, enabled=False):
        wide = torch.promote_types(query.dtype, torch.float32)
        scores = cosine_scores(query.to(wide), key.to(wide), tau)
    return info_nce(scores, target)


def draw_partners(
    order: Tensor, pool: int, alpha: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw for each of N target samples a partner among `pool` samples, and its share l.

    The target samples are the first N of the pool. The draw follows `order` (N,), the samples' positions in
    the unlabelled set, so the order within the batch does not matter. Return (N,) int64 places in the pool
    and (N,) float32 shares. In a pool of one, the sample is its own partner.
    """
    # NumPy, as torch's Beta takes no generator; the seed can be read without waiting for the device.
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
    """Return (M, keys) float32 targets: `share` on the sample itself and the rest on its partner.

    >>> mixed_targets(torch.tensor([2]), torch.tensor([0.75]), 3)
    tensor([[0.7500, 0.0000, 0.2500]])
    """
    index = torch.arange(len(partner), device=partner.device)
    table = share.new_zeros(len(partner), keys)
    table[index, index] = share
    return table.scatter_add(1, partner[:, None], 1 - share[:, None])


def mixed(features: Features, partner: Tensor, share: Tensor) -> Features:
    """Mix tokens and z* of the first samples with their partners: share x_i + (1 - share) x_partner.

    In float32 or wider; the mask is the union of both masks.
    """
    count, mask = len(partner), features.mask
    tokens = features.tokens if mask is None else features.tokens.masked_fill(~mask.unsqueeze(-1), 0.0)
    return Features(
        _convex(tokens[:count], tokens[partner], share[:, None, None]),
        None if mask is None else mask[:count] | mask[partner],
        _convex(features.pooled[:count], features.pooled[partner], share[:, None]),
    )


def joined(*parts: Features) -> Features:
    """Join the rows of several batches; shorter token sequences are padded and masked."""
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
    """Return the (B, length) mask of a part, which is False at the padding."""
    mask = part.tokens.new_ones(part.tokens.shape[:2], dtype=torch.bool) if part.mask is None else part.mask
    return F.pad(mask, (0, length - mask.shape[1]))


def _convex(a: Tensor, b: Tensor, share: Tensor) -> Tensor:
    """Return share a + (1 - share) b in float32 or wider."""
    wide = torch.promote_types(a.dtype, torch.float32)
    return torch.lerp(b.to(wide), a.to(wide), share.to(wide))


objective = Unsupervised
