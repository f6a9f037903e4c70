"""What objectives with critics share: the class prior, labels drawn from it, and the two sides of a game."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from featcache.errors import TrainError
from featcache.nn.critics import Critic
from featcache.objectives import _bounds as bounds
from featcache.objectives.base import Task

Prior = Literal["uniform", "labels"] | tuple[float, ...]


def class_prior(prior: Prior, task: Task) -> Tensor:
    """p(y), (C,) float32 summing to one; raises TrainError for numbers that are no distribution."""
    if prior == "uniform":
        values = torch.ones(task.num_classes)
    elif prior == "labels":
        values = task.label_counts.float().cpu()
    else:
        values = torch.tensor(prior, dtype=torch.float32)
    if values.shape != (task.num_classes,) or bool((values < 0).any()) or not values.sum() > 0:
        raise TrainError(
            "the class prior is not a distribution over the classes",
            got=values.tolist(),
            expected=f"{task.num_classes} numbers, none negative, not all zero",
            hint="--set objective.prior=uniform",
        )
    return values / values.sum()


def draw_labels(prior: Tensor, like: Tensor, generator: torch.Generator) -> Tensor:
    """As many one-hot labels drawn from the (C,) prior as `like` (N, C) has rows, in its dtype."""
    prior = prior.to(generator.device)
    drawn = torch.multinomial(prior, len(like), replacement=True, generator=generator)
    return torch.nn.functional.one_hot(drawn, len(prior)).to(like)


def adversarial(name: str, critic: Critic, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
    """The KL that the projector minimises through a critic it cannot move, and the critic's own loss."""
    loss = bounds.critic_loss(critic(real.detach()), critic(fake.detach()))
    return {f"kl_{name}": bounds.critic_kl(critic.frozen(fake)), f"critic_{name}": loss}
