"""DebiasPL: FixMatch on predictions without the model's bias to some classes (arXiv 2201.01490).

With p_hat <- ema_p p_hat + (1 - ema_p) mean_u softmax(logits(weak_u)), from 1/C:

    p_u  = softmax(logits(weak_u) - tau log p_hat)                                          the debiased guess
    m_u  = logits(strong_u) + tau log p_hat                                               the adaptive margin
    loss = CE_L + w_u / (mu B) sum_u [max p_u >= p_cutoff] CE(one_hot(argmax p_u), softmax(m_u))

With `hard_label` off the target is the debiased guess sharpened by T. Without strong views (texts), this is
self-training.

USB adds this to any method. Here it extends FixMatch, as in the paper. USB's options `debiaspl_tau` and
`debiaspl_ema_p` are called `tau` and `ema_p`. p_hat is updated before both uses of it. USB's margin and the
authors' guess (frank-xwang/debiased-pseudo-labeling) use the value of the previous step.
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
    pseudo_target,
    reaches,
)
from featcache.objectives.base import Task


class DebiasPLOptions(TargetOptions):
    """Options of DebiasPL."""

    p_cutoff: float = pydantic.Field(default=0.95, ge=0, le=1)
    """Debiased probability from which a prediction is used as a label."""
    tau: float = pydantic.Field(default=0.4, ge=0)
    """Strength of debiasing and of the margin; 0 is FixMatch."""
    ema_p: float = pydantic.Field(default=0.9, ge=0, lt=1)
    """Decay of the moving average, over about 1 / (1 - ema_p) steps (USB: 0.999)."""


class DebiasPL(Consistency[DebiasPLOptions]):
    """A fixed threshold; the moving average of predictions is subtracted, and added back as a margin."""

    Options = DebiasPLOptions
    p_hat: Tensor
    """(C,): moving average of predictions on weak views."""

    def __init__(self, options: DebiasPLOptions, task: Task) -> None:
        super().__init__(options, task)
        self.register_buffer("p_hat", torch.full((task.num_classes,), 1 / task.num_classes))

    def guess(self, evidence: Evidence) -> Guess:
        """Return the debiased predictions on the weak view, with weight 1 where they are confident."""
        o = self.options
        self._remember("p_hat", evidence.weak.softmax(1).mean(0), o.ema_p)
        debiased = evidence.weak - self._bias()
        return Guess(pseudo_target(debiased, o.hard_label, o.T), reaches(debiased.softmax(1), o.p_cutoff))

    def terms(self, strong: Tensor, guess: Guess) -> Terms:
        """Return the cross-entropy, with a larger margin for classes that are predicted less."""
        return super().terms(strong + self._bias(), guess)

    def _bias(self) -> Tensor:
        """Return tau log p_hat, (C,), finite even if a class is never predicted."""
        return self.options.tau * self.p_hat.clamp(min=1e-12).log()


objective = DebiasPL
