"""FlexMatch: FixMatch with a lower threshold for classes that are learned less (arXiv 2110.08263).

    s_u         = argmax p_u when max p_u >= p_cutoff last held for u; none before
    sigma(c)    = number of unlabelled samples with s_u = c
    beta(c)     = sigma(c) / max(max_c' sigma(c'), number of samples with s_u = none)
    threshold_c = p_cutoff beta(c) / (2 - beta(c))
    weight_u    = [max p_u >= threshold_c],    c = argmax p_u

with p_u = softmax(logits(weak_u)); target and loss are FixMatch's. With `thresh_warmup` off, the number of
samples with none is left out of the maximum. At first every beta is 0, so every sample has weight 1. Without
strong views (texts), this is self-training.

Difference from USB: beta follows the equation even if all s_u are of one class. USB then keeps the values of
the previous step.
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
    class_counts,
    pseudo_target,
    reaches,
)
from featcache.objectives.base import Task


class FlexMatchOptions(TargetOptions):
    """Options of FlexMatch."""

    p_cutoff: float = pydantic.Field(default=0.95, ge=0, le=1)
    """Probability from which a sample counts as learned; the highest threshold of any class."""
    thresh_warmup: bool = True
    """Keep thresholds low while most samples have not been learned yet."""


class FlexMatch(Consistency[FlexMatchOptions]):
    """One threshold per class, from a memory of one label per unlabelled sample."""

    Options = FlexMatchOptions
    selected_label: Tensor
    """(N,) int64: s_u, the latest confident class of each unlabelled sample, or -1."""

    def __init__(self, options: FlexMatchOptions, task: Task) -> None:
        super().__init__(options, task)
        self.register_buffer("selected_label", torch.full((task.num_unlabelled,), -1))

    def guess(self, evidence: Evidence) -> Guess:
        """Return weights from the thresholds before this batch; then add the batch to the memory."""
        o, probs = self.options, evidence.weak.softmax(1)
        weight = reaches(probs, o.p_cutoff * convex(self.learning_effect().to(probs)))
        if self.training:
            confidence, label = probs.max(dim=1)
            before = self.selected_label[evidence.position]
            self.selected_label[evidence.position] = torch.where(confidence >= o.p_cutoff, label, before)
        return Guess(pseudo_target(evidence.weak, o.hard_label, o.T), weight)

    def learning_effect(self) -> Tensor:
        """Return beta, (C,) float32 from 0 to 1."""
        counts = class_counts(self.selected_label + 1, self.task.num_classes + 1)
        rivals = counts if self.options.thresh_warmup else counts[1:]
        return counts[1:] / rivals.max().clamp(min=1)


def convex(beta: Tensor) -> Tensor:
    """Return beta / (2 - beta), which rises slowly at first, so that thresholds do too.

    >>> convex(torch.tensor([0.0, 0.5, 1.0]))
    tensor([0.0000, 0.3333, 1.0000])
    """
    return beta / (2 - beta)


objective = FlexMatch
