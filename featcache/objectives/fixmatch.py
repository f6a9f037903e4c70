"""FixMatch: confident predictions on the weak view are labels of the strong one (arXiv 2001.07685, eq. 4).

    p_u  = softmax(logits(weak_u)),    target_u = one_hot(argmax p_u),    weight_u = [max p_u >= p_cutoff]
    loss = CE_L + w_u / (mu B) sum_u weight_u CE(target_u, softmax(logits(strong_u)))

With `hard_label` off the target is softmax(logits(weak_u) / T); USB passes T there but never divides by it.
Without strong views (texts), this is self-training.
"""

from __future__ import annotations

import pydantic

from featcache.objectives._consistency import (
    Consistency,
    Evidence,
    Guess,
    TargetOptions,
    pseudo_target,
    reaches,
)


class FixMatchOptions(TargetOptions):
    """Options of FixMatch."""

    p_cutoff: float = pydantic.Field(default=0.95, ge=0, le=1)
    """Probability from which a prediction is used as a label."""


class FixMatch(Consistency[FixMatchOptions]):
    """One fixed threshold for all classes, without memory."""

    Options = FixMatchOptions

    def guess(self, evidence: Evidence) -> Guess:
        """Return the predictions on the weak view, with weight 1 where they are confident."""
        o = self.options
        return Guess(
            pseudo_target(evidence.weak, o.hard_label, o.T), reaches(evidence.weak.softmax(1), o.p_cutoff)
        )


objective = FixMatch
