"""The contract of an objective: projected features of a batch in, one loss and its named terms out."""

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
    """Facts about the data from which an objective builds its heads and critics."""

    num_classes: int
    dim: int
    """d, the width of z."""
    pooled_dim: int
    """P, the width of z*."""
    num_unlabelled: int
    label_counts: Tensor
    """(C,): number of labelled samples of each class."""
    center: Tensor
    """(d,): mean of z/|z| over the unlabelled samples at step 0. Features of one model share a large common
    part (after a ReLU, all are positive); subtracting it keeps it out of the cosines."""
    class_init: Tensor
    """(C, d): initial weights of a cosine head (`featcache.training.head_init`); zeros for a class without
    labels or a name."""
    seed: int = 0
    """Seed of the initial values of critics."""


Project = Callable[[Features], Tensor]
"""Maps features, with tokens (B, T, D), to z (B, d)."""

OptionsT = TypeVar("OptionsT", bound=Config)


class Objective(nn.Module, Generic[OptionsT]):
    """A loss with the heads and critics it trains; they are optimised, saved and restored with it.

    A subclass sets `Options` (its options `objective.KEY`), asks for `views`, and returns one scalar loss
    with its terms (nats) by name. The parameters returned by `critic_parameters` have their own learning
    rate.
    """

    Options: ClassVar[type[Config]]
    probed: ClassVar[bool] = False
    """Report the accuracy of probes on z*, and on z after training, as well."""

    def __init__(self, options: OptionsT, task: Task) -> None:
        super().__init__()
        self.options, self.task = options, task

    def views(self, available: Sequence[str]) -> Views:
        """Return the view families to read, out of those that the cache holds.

        `eval` is always available; `weak` and `strong` may be. See `featcache.batch.nearest_view`.
        """
        return Views()

    def critic_parameters(self) -> list[nn.Parameter]:
        """Return the parameters trained against the projector, by their own loss on detached inputs."""
        return []

    def forward(
        self, project: Project, batch: Batch, progress: float, generator: torch.Generator
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Return the scalar loss to minimise and its detached terms by name.

        `progress` runs from 0 to 1 over the training. All random draws of a step come from `generator`.
        """
        raise TypeError(f"{type(self).__name__} must define forward")

    def finish(self, z: Tensor, label: Tensor) -> None:
        """Fit something after the last step, to the labelled samples' z (n, d) and labels (n,), on the CPU.

        The objective is in evaluation mode. Does nothing by default. Results belong in buffers, so that the
        checkpoint holds them.
        """

    def logits(self, z: Tensor) -> Tensor:
        """Return class logits (B, C) of z (B, d); their softmax is q(y|x)."""
        raise TypeError(f"{type(self).__name__} must define logits")


def ramp(progress: float, share: float) -> float:
    """Return a factor that rises linearly from 0 to 1 over the first `share` of a training, then stays 1.

    >>> ramp(0.1, 0.4), ramp(0.9, 0.4), ramp(0.0, 0.0)
    (0.25, 1.0, 1.0)
    """
    return min(1.0, progress / share) if share else 1.0


@dataclass(frozen=True)
class ProbeData:
    """The data a probe is fitted to: labelled pooled embeddings, and class-name embeddings if any."""

    pooled: Tensor
    """(n, P) float32."""
    label: Tensor
    """(n,) int64."""
    num_classes: int
    class_text: Tensor | None
    """(C, P) class-name embeddings of unit length; None if the cache has none."""


class Probe(Generic[OptionsT]):
    """An objective without gradient steps: it is fitted to pooled embeddings at once."""

    Options: ClassVar[type[Config]]

    def __init__(self, options: OptionsT) -> None:
        self.options = options

    def fit(self, data: ProbeData, seed: int) -> Callable[[Tensor], Tensor]:
        """Fit the probe; return a function from (N, P) pooled embeddings to (N, C) log-probabilities."""
        raise TypeError(f"{type(self).__name__} must define fit")
