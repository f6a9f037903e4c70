"""Pseudo-labels: the model's own confident predictions used as labels (Lee, ICML workshop 2013).

    p_u     = softmax(logits(weak_u)),    target_u = one_hot(argmax p_u),    weight_u = [max p_u >= p_cutoff]
    loss    = CE_L + r w_u / (mu B) sum_u weight_u CE(target_u, p_u),    r = min(1, progress / unsup_warm_up)

The same view gives the label and learns from it, so this is always self-training. Lee's method has no
threshold. The form with a threshold, and its name, are USB's, which cites arXiv 1908.02983
("Pseudo-labeling and confirmation bias").
"""

from __future__ import annotations

from collections.abc import Sequence

import pydantic

from featcache.batch import Views
from featcache.objectives._consistency import (
    Consistency,
    ConsistencyOptions,
    Evidence,
    Guess,
    pseudo_target,
    reaches,
)
from featcache.objectives.base import ramp


class PseudoLabelOptions(ConsistencyOptions):
    """Options of pseudo-labelling."""

    p_cutoff: float = pydantic.Field(default=0.95, ge=0, le=1)
    """Probability from which a prediction is used as a label."""
    unsup_warm_up: float = pydantic.Field(default=0.4, ge=0, le=1)
    """Share of training over which the weight of unlabelled samples rises from zero."""


class PseudoLabel(Consistency[PseudoLabelOptions]):
    """Self-training on one weak view, without memory."""

    Options = PseudoLabelOptions

    def views(self, available: Sequence[str]) -> Views:
        """Ask for one weak view of each sample, or the plain one."""
        both = super().views(available)
        return both._replace(unlabelled=both.unlabelled[:1])

    def guess(self, evidence: Evidence) -> Guess:
        """Return the most probable class of each row, with weight 1 where it reaches the threshold."""
        target = pseudo_target(evidence.weak, hard_label=True, temperature=1.0)
        return Guess(target, reaches(evidence.weak.softmax(1), self.options.p_cutoff))

    def term_weights(self, progress: float) -> dict[str, float]:
        """Return the weight, which rises linearly to `w_u`."""
        return {"ce_pseudo": ramp(progress, self.options.unsup_warm_up) * self.options.w_u}


objective = PseudoLabel
