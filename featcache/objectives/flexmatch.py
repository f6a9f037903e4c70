"""FlexMatch: FixMatch whose threshold is lower for classes the model has hardly learned (arXiv 2110.08263).

    s_u         = argmax p_u of when u was last seen with max p_u >= p_cutoff; none until then
    sigma(c)    = number of unlabelled samples with s_u = c
    beta(c)     = sigma(c) / max(max_c' sigma(c'), number of samples with s_u = none)
    threshold_c = p_cutoff beta(c) / (2 - beta(c))
    weight_u    = [max p_u >= threshold_c],    c = argmax p_u

with p_u = softmax(logits(weak_u)); target and loss are FixMatch's. With `thresh_warmup` off the number with
none is left out of the maximum. At the start every beta is 0, so every sample counts. Without strong views
(texts): self-training.

Difference from USB: beta is what the equation says also where all s_u are of one class; there USB keeps the
values of the step before.
"""

from __future__ import annotations

import pydantic
import torch
from torch import Tensor

from featcache.objectives._consistency import (
    Consistency,
    Guess,
    Seen,
    TargetOptions,
    class_counts,
    pseudo_target,
    reaches,
)
from featcache.objectives.base import Task


class FlexMatchOptions(TargetOptions):
    """Options of FlexMatch."""

    p_cutoff: float = pydantic.Field(default=0.95, ge=0, le=1)
    """Probability from which on a sample counts as learned; the highest threshold of any class."""
    thresh_warmup: bool = True
    """Whether thresholds stay low while most samples have not been learned yet."""


class FlexMatch(Consistency[FlexMatchOptions]):
    """One threshold for each class, from a memory of one label for each unlabelled sample."""

    Options = FlexMatchOptions
    selected_label: Tensor

    def __init__(self, options: FlexMatchOptions, task: Task) -> None:
        super().__init__(options, task)
        self.register_buffer("selected_label", torch.full((task.num_unlabelled,), -1))

    def guess(self, seen: Seen) -> Guess:
        """Weights by the thresholds of before this batch, which then enters the memory."""
        o, probs = self.options, seen.weak.softmax(1)
        weight = reaches(probs, o.p_cutoff * convex(self.learning_effect().to(probs)))
        if self.training:
            confidence, label = probs.max(dim=1)
            before = self.selected_label[seen.position]
            self.selected_label[seen.position] = torch.where(confidence >= o.p_cutoff, label, before)
        return Guess(pseudo_target(seen.weak, o.hard_label, o.T), weight)

    def learning_effect(self) -> Tensor:
        """beta, (C,) float32 from 0 to 1."""
        counts = class_counts(self.selected_label + 1, self.task.num_classes + 1)
        rivals = counts if self.options.thresh_warmup else counts[1:]
        return counts[1:] / rivals.max().clamp(min=1)


def convex(beta: Tensor) -> Tensor:
    """beta / (2 - beta): slow at first, so that few samples of a class do not close the door behind them.

    >>> convex(torch.tensor([0.0, 0.5, 1.0]))
    tensor([0.0000, 0.3333, 1.0000])
    """
    return beta / (2 - beta)


objective = FlexMatch
