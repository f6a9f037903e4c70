"""FreeMatch: thresholds from the model's own confidence, and a term for diversity (arXiv 2205.07246).

With p_u = softmax(logits(weak_u)) and EMA the moving average, a <- ema_p a + (1 - ema_p) now, from 1/C:

    tau         = EMA(mean_u max p_u)
    p~          = EMA(mean_u p_u),    h~ = EMA(histogram of argmax p_u)
    threshold_c = tau p~(c) / max_c' p~(c')
    weight_u    = [max p_u >= threshold_c],    c = argmax p_u
    ent_loss    = sum_c N(p~ / h~)(c) log N(p- / h-)(c)
    loss        = CE_L + w_u CE_U + ent_loss_ratio ent_loss

where p- and h- are the mean prediction and the histogram of the strong views of weight 1, and N divides by
the sum. CE_U and its target are FixMatch's. `ent_loss` is *minus* a cross-entropy, and is minimised, as in
USB. Without strong views (texts), this is self-training.
"""

from __future__ import annotations

import pydantic
import torch
from torch import Tensor

from featcache.objectives._consistency import (
    Consistency,
    Evidence,
    Guess,
    TargetOptions,
    Terms,
    class_counts,
    pseudo_target,
    reaches,
)
from featcache.objectives.base import Task


class FreeMatchOptions(TargetOptions):
    """Options of FreeMatch."""

    ema_p: float = pydantic.Field(default=0.9, ge=0, lt=1)
    """Decay of the moving averages, over about 1 / (1 - ema_p) steps (USB: 0.999)."""
    ent_loss_ratio: float = pydantic.Field(default=0.01, ge=0)
    """Weight of `ent_loss`; this is USB's default, but its configurations use 0.001."""
    use_quantile: bool = False
    """Let tau follow the 0.8 quantile of the confidences instead of their mean."""
    clip_thresh: bool = False
    """Clip tau at 0.95."""


class FreeMatch(Consistency[FreeMatchOptions]):
    """One threshold per class, from moving averages of confidence and prediction."""

    Options = FreeMatchOptions
    time_p: Tensor
    """A scalar: tau."""
    p_model: Tensor
    """(C,): p~."""
    label_hist: Tensor
    """(C,): h~."""

    def __init__(self, options: FreeMatchOptions, task: Task) -> None:
        super().__init__(options, task)
        uniform = torch.full((task.num_classes,), 1 / task.num_classes)
        self.register_buffer("time_p", uniform[0].clone())
        self.register_buffer("p_model", uniform.clone())
        self.register_buffer("label_hist", uniform.clone())

    def guess(self, evidence: Evidence) -> Guess:
        """Return weights from the thresholds, which are updated with this batch first."""
        o, probs = self.options, evidence.weak.softmax(1)
        confidence, label = probs.max(dim=1)
        typical = confidence.quantile(0.8) if o.use_quantile else confidence.mean()
        self._remember("time_p", typical, o.ema_p)
        if o.clip_thresh and self.training:
            self.time_p.clamp_(max=0.95)
        self._remember("p_model", probs.mean(0), o.ema_p)
        self._remember("label_hist", class_counts(label, probs.shape[1]) / len(label), o.ema_p)
        threshold = self.time_p * self.p_model / self.p_model.max()
        return Guess(pseudo_target(evidence.weak, o.hard_label, o.T), reaches(probs, threshold))

    def terms(self, strong: Tensor, guess: Guess) -> Terms:
        """Return the cross-entropy and `ent_loss`."""
        diversity = fairness(strong, guess.sample_weight, self.p_model, self.label_hist)
        return super().terms(strong, guess) | {"ent_loss": diversity}

    def term_weights(self, progress: float) -> dict[str, float]:
        """Add the weight of `ent_loss`."""
        return super().term_weights(progress) | {"ent_loss": self.options.ent_loss_ratio}


def fairness(strong: Tensor, mask: Tensor, p_model: Tensor, label_hist: Tensor) -> Tensor:
    """Return `ent_loss`, a scalar, from (B, C) logits, a (B,) mask of 0 and 1, and two (C,) averages.

    It is 0 if the mask is all zeros. A class that no row of mask 1 predicts counts as log 1e-12, a constant
    without gradient, as in USB.
    """
    probs, count = strong.softmax(1), mask.sum().clamp(min=1)
    mean = (mask[:, None] * probs).sum(0) / count
    hard = pseudo_target(strong.detach(), hard_label=True, temperature=1.0)
    wanted = _shares(p_model, label_hist)
    found = _shares(mean, (mask[:, None] * hard).sum(0) / count)
    value = (wanted * (found + 1e-12).log()).sum()
    return torch.where(mask.any(), value, torch.zeros_like(value))


def _shares(mean: Tensor, histogram: Tensor) -> Tensor:
    """Return N(mean / histogram), with 0 where the histogram is 0."""
    present = histogram > 0
    ratio = torch.where(present, mean / torch.where(present, histogram, torch.ones_like(histogram)), 0.0)
    # If any class is present, the largest ratio is at least 1 / C: the floor is for an empty histogram.
    return ratio / ratio.sum().clamp(min=1e-6)


objective = FreeMatch
