"""What pseudo-labelling methods share: a weak view names a class, a strong view of the sample has to agree.

    loss = -E_L log q(y|x)  +  w_u / (mu B) sum_u weight_u CE(target_u, q(y|strong_u))

Target and weight are made of the weak view's logits and carry no gradient; the sum is divided by all rows,
also those of weight 0. A method decides how target and weight are made, and what it remembers between steps.

Without a cached `strong` view a second weak one stands in. Where one view is all there is (texts, for one,
have no augmentations in the cache) it is both, and consistency reduces to self-training: confident
predictions are made more confident. Without unlabelled rows the loss is the supervised one.

Names and defaults are those of USB (arXiv 2208.07204; microsoft/Semi-supervised-learning), but for `ema_p`:
0.9 and not 0.999, which is made for a million steps. In a training of a few hundred such an average hardly
leaves its start, where a threshold is 1/C and every guess believed, or nothing is debiased (docs/results.md
has a figure).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar, cast

import pydantic
import torch
from torch import Tensor
from torch.nn import functional as F

from featcache.batch import Batch, Views
from featcache.config import Config
from featcache.nn.heads import CosineHead
from featcache.objectives.base import Objective, Project, Task

Terms = dict[str, Tensor]


class ConsistencyOptions(Config):
    """Options of every method."""

    w_u: float = pydantic.Field(default=1.0, ge=0)
    """Weight of the loss on unlabelled samples (USB: `ulb_loss_ratio`)."""


class TargetOptions(ConsistencyOptions):
    """Options of methods that may keep the whole prediction as their target."""

    hard_label: bool = True
    """Whether the target is the most probable class, or else the sharpened prediction."""
    T: float = pydantic.Field(default=0.5, gt=0)
    """Temperature of the sharpened prediction."""


class Seen(NamedTuple):
    """What a pseudo-label may be made of; constants, without gradient."""

    weak: Tensor
    """(mu B, C) logits of the unlabelled samples' weak view."""
    labelled: Tensor
    """(B, C) logits of the labelled samples."""
    position: Tensor
    """(mu B,) int64: place of each row within the unlabelled set."""


class Guess(NamedTuple):
    """What an unlabelled sample is taken for, and how far that is believed."""

    target: Tensor
    """(mu B, C), rows that sum to one."""
    weight: Tensor
    """(mu B,), from 0 to 1."""


ConsistencyT = TypeVar("ConsistencyT", bound=ConsistencyOptions)


class Consistency(Objective[ConsistencyT], ABC):
    """A cosine head and the walk from views to a loss; a subclass says what the weak view is worth."""

    def __init__(self, options: ConsistencyT, task: Task) -> None:
        super().__init__(options, task)
        self.head = CosineHead(task.class_init, task.center)

    @abstractmethod
    def guess(self, seen: Seen) -> Guess:
        """Targets and weights of a batch; what the method remembers moves on, in training mode only."""

    def terms(self, strong: Tensor, guess: Guess) -> Terms:
        """The losses on unlabelled samples by name, from the (mu B, C) logits of their strong view."""
        return {"ce_pseudo": weighted_cross_entropy(strong, guess.target, guess.weight)}

    def weights(self, progress: float) -> dict[str, float]:
        """What each of `terms` is multiplied by in the loss."""
        return {"ce_pseudo": self.options.w_u}

    def views(self, available: Sequence[str]) -> Views:
        """A weak and a strong view of each unlabelled sample; what stands in for them, see the module."""
        weak = "weak" if "weak" in available else "eval"
        strong = "strong" if "strong" in available else weak
        unlabelled = (weak,) if strong == "eval" else (weak, strong)
        return Views((weak,), unlabelled if self.task.num_unlabelled else ())

    def forward(
        self, project: Project, batch: Batch, progress: float, generator: torch.Generator
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The loss; `ce_cond`, the method's terms, and `util_ratio`, the mean weight of the pseudo-labels."""
        logits = self.logits(project(batch.labelled[0]))
        loss = ce_cond = F.cross_entropy(logits, batch.label)
        if not batch.unlabelled or len(batch.unlabelled[0].pooled) == 0:
            return loss, {"ce_cond": ce_cond.detach()}
        weak, strong = self._weak_and_strong(project, batch)
        guess = self.guess(Seen(weak.detach(), logits.detach(), batch.unlabelled_index))
        terms, weights = self.terms(strong, guess), self.weights(progress)
        for name, value in terms.items():
            loss = loss + weights[name] * value
        reported = {"ce_cond": ce_cond, **terms, "util_ratio": guess.weight.mean()}
        return loss, {name: value.detach() for name, value in reported.items()}

    def logits(self, z: Tensor) -> Tensor:
        """(B, d) to (B, C): scaled cosines."""
        return cast(Tensor, self.head(z))

    def _weak_and_strong(self, project: Project, batch: Batch) -> tuple[Tensor, Tensor]:
        strong = self.logits(project(batch.unlabelled[-1]))
        if len(batch.unlabelled) == 1:
            return strong, strong
        with torch.no_grad():
            return self.logits(project(batch.unlabelled[0])), strong

    def _remember(self, name: str, now: Tensor, keep: float) -> None:
        """buffer <- keep * buffer + (1 - keep) * now, in training mode."""
        if self.training:
            buffer = self.get_buffer(name)
            buffer.lerp_(now.to(buffer), 1 - keep)


def pseudo_target(logits: Tensor, hard_label: bool, temperature: float) -> Tensor:
    """(B, C) logits to (B, C) targets: the most probable class as a one-hot row, or softmax(logits / T).

    >>> pseudo_target(torch.tensor([[0.0, 3.0]]), True, 0.5)
    tensor([[0., 1.]])
    """
    if hard_label:
        return F.one_hot(logits.argmax(dim=-1), logits.shape[-1]).to(logits.dtype)
    return (logits / temperature).softmax(dim=-1)


def reaches(probs: Tensor, threshold: Tensor | float) -> Tensor:
    """1 where the largest of (B, C) probabilities is at least the threshold, else 0: (B,).

    One threshold for all, or (C,), of which the most probable class's counts.

    >>> reaches(torch.tensor([[0.3, 0.7], [0.6, 0.4]]), torch.tensor([0.5, 0.9]))
    tensor([0., 1.])
    """
    confidence, label = probs.max(dim=-1)
    own = threshold[label] if isinstance(threshold, Tensor) else threshold
    return (confidence >= own).to(probs.dtype)


def weighted_cross_entropy(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """-1/B sum_i weight_i sum_y target_iy log softmax(logits_i)_y, a scalar: (B, C), (B, C) and (B,) to nats.

    >>> weighted_cross_entropy(torch.zeros(2, 2), torch.eye(2), torch.tensor([1.0, 0.0]))
    tensor(0.3466)
    """
    return (weight * F.cross_entropy(logits, target, reduction="none")).mean()


def class_counts(label: Tensor, classes: int) -> Tensor:
    """(N,) labels to (C,) counts, both int64.

    >>> class_counts(torch.tensor([2, 0, 2]), 3)
    tensor([1, 0, 2])
    """
    return label.new_zeros(classes).scatter_add_(0, label, torch.ones_like(label))
