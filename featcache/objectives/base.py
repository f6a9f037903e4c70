"""What an objective is: from projected features of a batch to one loss and its named terms."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn

from featcache.batch import Batch, Features, Views
from featcache.config import Config


@dataclass(frozen=True)
class Task:
    """What an objective must know of the data to build its heads and critics."""

    num_classes: int
    dim: int
    """d, the width of z."""
    pooled_dim: int
    """P, the width of z*."""
    num_unlabelled: int
    label_counts: Tensor
    """(C,) labelled samples per class."""
    center: Tensor
    """(d,): mean over the unlabelled samples of z, at length one, at step 0. Features of one model share a
    large common part (after a ReLU, for one, all are positive), which cosines should not see."""
    class_init: Tensor
    """(C, d): where a cosine head starts (`featcache.training.head_init`); zeros for a class without
    labels or a name."""
    seed: int = 0
    """Seeds the initial values of critics."""


Project = Callable[[Features], Tensor]
"""(B, T, D) tokens to z (B, d)."""

OptionsT = TypeVar("OptionsT", bound=Config)


class Objective(nn.Module, Generic[OptionsT]):
    """Owns heads and critics, so that they are optimised, saved and restored with it.

    A subclass sets `Options` (its typed `--set objective.KEY=VALUE`), asks for `views`, and returns one
    scalar loss with its terms (nats) by name. Parameters named by `critic_parameters` get their own learning
    rate.
    """

    Options: ClassVar[type[Config]]
    probed: ClassVar[bool] = False
    """Whether the result also says what probes make of z*, and of z after training."""

    def __init__(self, options: OptionsT, task: Task) -> None:
        super().__init__()
        self.options, self.task = options, task

    def views(self, available: Sequence[str]) -> Views:
        """The view families to read, given those the cache holds (`eval` always, maybe `weak`, `strong`)."""
        return Views()

    def critic_parameters(self) -> list[nn.Parameter]:
        """Parameters trained against the projector, by their own loss on detached inputs."""
        return []

    def forward(
        self, project: Project, batch: Batch, progress: float, generator: torch.Generator
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The loss to minimise (scalar) and its detached terms; `progress` runs from 0 to 1."""
        raise TypeError(f"{type(self).__name__} must define forward")

    def finish(self, z: Tensor, label: Tensor) -> None:
        """After the last step, evaluation mode: the labelled samples' z (n, d) and labels (n,), on the CPU.

        By default nothing; what an objective fits here it keeps in buffers, and so in the checkpoint.
        """

    def logits(self, z: Tensor) -> Tensor:
        """(B, d) projected features to (B, C) class logits, whose softmax is q(y|x)."""
        raise TypeError(f"{type(self).__name__} must define logits")


@dataclass(frozen=True)
class ProbeData:
    """What a probe may learn from: labelled pooled embeddings, and class-name embeddings if any."""

    pooled: Tensor
    """(n, P) float32."""
    label: Tensor
    """(n,) int64."""
    num_classes: int
    class_text: Tensor | None
    """(C, P) unit-length class-name embeddings."""


class Probe(Generic[OptionsT]):
    """An objective without gradient steps: fitted on pooled embeddings at once."""

    Options: ClassVar[type[Config]]

    def __init__(self, options: OptionsT) -> None:
        self.options = options

    def fit(self, data: ProbeData, seed: int) -> Callable[[Tensor], Tensor]:
        """Returns a function from (N, P) pooled embeddings to (N, C) log-probabilities."""
        raise TypeError(f"{type(self).__name__} must define fit")
