"""The common part of pseudo-labelling methods: a weak view gives a pseudo-label to a strong view.

    loss = -E_L log q(y|x)  +  w_u / (mu B) sum_u weight_u CE(target_u, q(y|strong_u))

Target and weight come from the weak view's logits and carry no gradient. The sum is divided by the number of
all rows, including those of weight 0. Each method defines target and weight, and its memory between steps.

Without a cached `strong` view, a second weak view replaces it. If only one view is cached (texts have no
augmentations), it is used as both. Consistency is then self-training: confident predictions become more
confident. Without unlabelled rows the loss is the supervised one.

Names and defaults are those of USB (arXiv 2208.07204; microsoft/Semi-supervised-learning), except for
`ema_p`: 0.9 instead of 0.999. USB's value is meant for a million steps. In a few hundred steps its average
stays near the initial value. There every pseudo-label passes the threshold 1/C, or nothing is debiased
(docs/results.md has a figure).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar, cast

import pydantic
import torch
from torch import Tensor
from torch.nn import functional as F

from featcache.batch import Batch, Views, nearest_view
from featcache.config import Config
from featcache.nn.heads import CosineHead
from featcache.objectives.base import Objective, Project, Task

Terms = dict[str, Tensor]


class ConsistencyOptions(Config):
    """Options of every method."""

    w_u: float = pydantic.Field(default=1.0, ge=0)
    """Weight of the loss on unlabelled samples (USB: `ulb_loss_ratio`)."""


class TargetOptions(ConsistencyOptions):
    """Options of methods whose target may be the whole prediction."""

    hard_label: bool = True
    """Use the most probable class as the target; without, the sharpened prediction."""
    T: float = pydantic.Field(default=0.5, gt=0)
    """Temperature of the sharpened prediction."""


class Evidence(NamedTuple):
    """The logits that pseudo-labels are made from, without gradient."""

    weak: Tensor
    """(mu B, C) logits of the unlabelled samples' weak view."""
    labelled: Tensor
    """(B, C) logits of the labelled samples."""
    position: Tensor
    """(mu B,) int64: place of each row within the unlabelled set."""


class Guess(NamedTuple):
    """Pseudo-labels of a batch and their weights."""

    target: Tensor
    """(mu B, C), rows that sum to one."""
    sample_weight: Tensor
    """(mu B,), from 0 to 1: weight_u of the equation."""


ConsistencyT = TypeVar("ConsistencyT", bound=ConsistencyOptions)


class Consistency(Objective[ConsistencyT], ABC):
    """A cosine head and the steps from views to a loss; a subclass defines the pseudo-labels."""

    def __init__(self, options: ConsistencyT, task: Task) -> None:
        super().__init__(options, task)
        self.head = CosineHead(task.class_init, task.center)

    @abstractmethod
    def guess(self, evidence: Evidence) -> Guess:
        """Return the pseudo-labels of a batch; in training mode, also update the method's memory."""

    def terms(self, strong: Tensor, guess: Guess) -> Terms:
        """Return the losses on unlabelled samples by name, from (mu B, C) logits of their strong view."""
        return {"ce_pseudo": weighted_cross_entropy(strong, guess.target, guess.sample_weight)}

    def term_weights(self, progress: float) -> dict[str, float]:
        """Return the weight in the loss of each of `terms`; `progress` runs from 0 to 1."""
        return {"ce_pseudo": self.options.w_u}

    def views(self, available: Sequence[str]) -> Views:
        """Ask for a weak and a strong view of each unlabelled sample, or the nearest cached views."""
        weak, strong = nearest_view(available, "weak"), nearest_view(available, "strong", "weak")
        unlabelled = (weak,) if strong == "eval" else (weak, strong)
        return Views((weak,), unlabelled if self.task.num_unlabelled else ())

    def forward(
        self, project: Project, batch: Batch, progress: float, generator: torch.Generator
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Return the loss and its terms: `ce_cond`, the method's own, and the mean weight `util_ratio`."""
        logits = self.logits(project(batch.labelled[0]))
        loss = ce_cond = F.cross_entropy(logits, batch.label)
        if not batch.has_unlabelled:
            return loss, {"ce_cond": ce_cond.detach()}
        weak, strong = self._weak_and_strong(project, batch)
        guess = self.guess(Evidence(weak.detach(), logits.detach(), batch.unlabelled_index))
        terms, term_weights = self.terms(strong, guess), self.term_weights(progress)
        for name, value in terms.items():
            loss = loss + term_weights[name] * value
        reported = {"ce_cond": ce_cond, **terms, "util_ratio": guess.sample_weight.mean()}
        return loss, {name: value.detach() for name, value in reported.items()}

    def logits(self, z: Tensor) -> Tensor:
        """Return scaled cosines, (B, C), of z (B, d)."""
        return cast(Tensor, self.head(z))

    def _weak_and_strong(self, project: Project, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return (mu B, C) logits of the weak view, and with a gradient those of the strong view."""
        strong = self.logits(project(batch.unlabelled[-1]))
        if len(batch.unlabelled) == 1:
            return strong, strong
        with torch.no_grad():
            return self.logits(project(batch.unlabelled[0])), strong

    def _remember(self, name: str, now: Tensor, keep: float) -> None:
        """Update a moving average in training mode: buffer <- keep * buffer + (1 - keep) * now."""
        if self.training:
            buffer = self.get_buffer(name)
            buffer.lerp_(now.to(buffer), 1 - keep)


def pseudo_target(logits: Tensor, hard_label: bool, temperature: float) -> Tensor:
    """Return (B, C) targets of (B, C) logits: the most probable class as one-hot, or softmax(logits / T).

    >>> pseudo_target(torch.tensor([[0.0, 3.0]]), True, 0.5)
    tensor([[0., 1.]])
    """
    if hard_label:
        return F.one_hot(logits.argmax(dim=-1), logits.shape[-1]).to(logits.dtype)
    return (logits / temperature).softmax(dim=-1)


def reaches(probs: Tensor, threshold: Tensor | float) -> Tensor:
    """Return 1 where the largest of (B, C) probabilities is at least the threshold, else 0: (B,).

    `threshold` is a number, or (C,) with one value per class; then the most probable class's value applies.

    >>> reaches(torch.tensor([[0.3, 0.7], [0.6, 0.4]]), torch.tensor([0.5, 0.9]))
    tensor([0., 1.])
    """
    confidence, label = probs.max(dim=-1)
    own = threshold[label] if isinstance(threshold, Tensor) else threshold
    return (confidence >= own).to(probs.dtype)


def weighted_cross_entropy(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Return -1/B sum_i weight_i sum_y target_iy log softmax(logits_i)_y, a scalar in nats.

    `logits` and `target` are (B, C); `weight` is (B,).

    >>> weighted_cross_entropy(torch.zeros(2, 2), torch.eye(2), torch.tensor([1.0, 0.0]))
    tensor(0.3466)
    """
    return (weight * F.cross_entropy(logits, target, reduction="none")).mean()


def class_counts(label: Tensor, classes: int) -> Tensor:
    """Return (C,) counts of (N,) labels, both int64.

    >>> class_counts(torch.tensor([2, 0, 2]), 3)
    tensor([1, 0, 2])
    """
    return label.new_zeros(classes).scatter_add_(0, label, torch.ones_like(label))
