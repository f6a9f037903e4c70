"""SoftMatch: all unlabelled samples are used, with a weight that falls with confidence (arXiv 2301.10921).

With p_u = softmax(logits(weak_u)) and EMA the moving average, a <- ema_p a + (1 - ema_p) now:

    p'_u     = p_u p_target / EMA(mean_u p_u), divided by its sum; the EMA starts at its first batch
    m, v     = EMA(mean_u max p'_u) from 1/C, EMA(var_u max p'_u) from 1
    weight_u = exp(-n_sigma^2 min(max p'_u - m, 0)^2 / (2 v))
    loss     = CE_L + w_u / (mu B) sum_u weight_u CE(target_u, softmax(logits(strong_u)))

The target is FixMatch's, from p_u and not from p'_u. Without strong views (texts), this is self-training.

Differences from USB: `dist_align` can be switched off (USB reads the option but always aligns). A mean and
variance keep their values if a batch has fewer than two samples for them (with `per_class`, of a rare class).
"""

from __future__ import annotations

import pydantic
import torch
from torch import Tensor
from torch.nn import functional as F

from featcache.objectives._consistency import (
    Consistency,
    Evidence,
    Guess,
    TargetOptions,
    pseudo_target,
)
from featcache.objectives.base import Task


class SoftMatchOptions(TargetOptions):
    """Options of SoftMatch."""

    ema_p: float = pydantic.Field(default=0.9, ge=0, lt=1)
    """Decay of the moving averages, over about 1 / (1 - ema_p) steps (USB: 0.999)."""
    n_sigma: float = pydantic.Field(default=2, gt=0)
    """Standard deviations of confidence per standard deviation of the weight: more is stricter."""
    dist_align: bool = True
    """Compute weights from predictions aligned to `p_target`."""
    dist_uniform: bool = True
    """Use a uniform `p_target`; without, the moving average of predictions on labelled samples."""
    per_class: bool = False
    """Use a mean and a variance for each class."""


class SoftMatch(Consistency[SoftMatchOptions]):
    """A weight that is Gaussian below the moving mean of confidence, and 1 above it."""

    Options = SoftMatchOptions
    p_model: Tensor
    """(C,): moving average of predictions on weak views; zero before the first batch."""
    p_target: Tensor
    """(C,): the class distribution that predictions are aligned to."""
    prob_max_mu: Tensor
    """(G,): m, the moving mean of confidence; G is C with `per_class`, else 1."""
    prob_max_var: Tensor
    """(G,): v, the moving variance of confidence."""

    def __init__(self, options: SoftMatchOptions, task: Task) -> None:
        super().__init__(options, task)
        classes = task.num_classes
        groups = classes if options.per_class else 1
        # Zero marks that there was no batch yet; the first batch then sets the average.
        self.register_buffer("p_model", torch.zeros(classes))
        self.register_buffer("p_target", torch.full((classes,), 1 / classes))
        self.register_buffer("prob_max_mu", torch.full((groups,), 1 / classes))
        self.register_buffer("prob_max_var", torch.ones(groups))

    def guess(self, evidence: Evidence) -> Guess:
        """Return weights from the statistics, which are updated with this batch first."""
        o, probs = self.options, evidence.weak.softmax(1)
        if o.dist_align:
            probs = self._aligned(probs, evidence.labelled.softmax(1))
        confidence, label = probs.max(dim=1)
        group = label if o.per_class else torch.zeros_like(label)
        mean, var = grouped_moments(confidence, group, self.prob_max_mu, self.prob_max_var)
        self._remember("prob_max_mu", mean, o.ema_p)
        self._remember("prob_max_var", var, o.ema_p)
        weight = truncated_gaussian(confidence, self.prob_max_mu[group], self.prob_max_var[group], o.n_sigma)
        return Guess(pseudo_target(evidence.weak, o.hard_label, o.T), weight)

    def _aligned(self, probs: Tensor, labelled: Tensor) -> Tensor:
        """Return (mu B, C) predictions scaled so that their average is close to `p_target`."""
        now = probs.mean(0).to(self.p_model)
        before = torch.where(self.p_model.any(), self.p_model, now)
        self._remember("p_model", before.lerp(now, 1 - self.options.ema_p), keep=0.0)
        if not self.options.dist_uniform:
            self._remember("p_target", labelled.mean(0), self.options.ema_p)
        scaled = probs * (self.p_target + 1e-6) / (self.p_model + 1e-6)
        return scaled / scaled.sum(1, keepdim=True)


def truncated_gaussian(confidence: Tensor, mean: Tensor, var: Tensor, n_sigma: float) -> Tensor:
    """Return exp(-n_sigma^2 min(confidence - mean, 0)^2 / (2 var)), from 0 to 1; all of one shape.

    >>> truncated_gaussian(torch.tensor([0.5, 0.9]), torch.tensor(0.7), torch.tensor(0.08), 2)
    tensor([0.3679, 1.0000])
    """
    below = (confidence - mean).clamp(max=0)
    return (-(n_sigma**2) * below**2 / (2 * var.clamp(min=1e-12))).exp()


def grouped_moments(values: Tensor, group: Tensor, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and unbiased variance, (G,) each, of (N,) values by group.

    A group with fewer than two values keeps the given `mean` and `var`.
    """
    member = F.one_hot(group, len(mean)).to(values)
    count = member.sum(0)
    here = (member * values[:, None]).sum(0) / count.clamp(min=1)
    scatter = (member * (values[:, None] - here) ** 2).sum(0) / (count - 1).clamp(min=1)
    enough = count > 1
    return torch.where(enough, here, mean.to(values)), torch.where(enough, scatter, var.to(values))


objective = SoftMatch
