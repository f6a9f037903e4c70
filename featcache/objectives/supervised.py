"""Cross-entropy on the labelled samples only: the control for every semi-supervised objective.

    loss = -E_L log q(y|x),    q(y|x) = softmax_y(scale cos(z, w_y))

Source: the cosine classifier and its initialisation from class names are FineSSL's (arXiv 2405.11756). Label
smoothing is by Szegedy et al. (arXiv 1512.00567, section 7).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import pydantic
import torch
from torch import Tensor
from torch.nn import functional as F

from featcache.batch import Batch, Views, nearest_view
from featcache.config import Config
from featcache.nn.heads import CosineHead
from featcache.objectives.base import Objective, Project, Task


class SupervisedOptions(Config):
    """Options of supervised training."""

    label_smoothing: float = pydantic.Field(default=0.0, ge=0, lt=1)
    """Share of the target that is distributed evenly over all classes."""


class Supervised(Objective[SupervisedOptions]):
    """A cosine head on z, trained on labelled samples; reads weak views if the cache has them."""

    Options = SupervisedOptions

    def __init__(self, options: SupervisedOptions, task: Task) -> None:
        super().__init__(options, task)
        self.head = CosineHead(task.class_init, task.center)

    def views(self, available: Sequence[str]) -> Views:
        """Ask for one weak view of each labelled sample, or the plain one."""
        return Views(labelled=(nearest_view(available, "weak"),))

    def forward(
        self, project: Project, batch: Batch, progress: float, generator: torch.Generator
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Return the loss; its only term is `ce_cond`."""
        logits = self.logits(project(batch.labelled[0]))
        loss = F.cross_entropy(logits, batch.label, label_smoothing=self.options.label_smoothing)
        return loss, {"ce_cond": loss.detach()}

    def logits(self, z: Tensor) -> Tensor:
        """Return scaled cosines, (B, C), of z (B, d)."""
        return cast(Tensor, self.head(z))


objective = Supervised
