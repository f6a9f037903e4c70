"""Parts of objectives with critics: the class prior, labels drawn from it, and both adversarial losses."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from featcache.errors import TrainError, option
from featcache.mi.terms import critic_kl, critic_loss
from featcache.nn.critics import Critic
from featcache.objectives.base import Task

Prior = Literal["uniform", "labels"] | tuple[float, ...]


def class_prior(prior: Prior, task: Task) -> Tensor:
    """Return p(y), (C,) float32, which sums to one.

    `prior` is `uniform`, `labels` (the frequencies of the labelled samples), or one number per class. Raise
    TrainError if the numbers are not a distribution over the classes.
    """
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
            hint=f"pass {option('objective.prior', 'uniform')}",
        )
    return values / values.sum()


def em_prior(logits: Tensor, prior: Tensor, label_prior: Tensor, pull: float) -> Tensor:
    """Return the class prior of unlabelled samples after one step of EM, (C,), which sums to one:

        p'(y) = (1 - pull) E_x [ p(y) q(y|x) / q_L(y)  /  sum_k p(k) q(k|x) / q_L(k) ]  +  pull / C

    `logits` are those of q(y|x), (N, C). `prior` is p so far, and `label_prior` is q_L, the prior that q was
    trained under. Source: Saerens, Latinne and Decaestecker, Neural Computation 14(1), 2002 (their EM for new
    priors). The pull is a symmetric Dirichlet prior worth pull / (1 - pull) of the samples. It keeps every
    class above zero.

    >>> half = torch.tensor([0.5, 0.5])
    >>> em_prior(torch.tensor([[9.0, 0.0], [9.0, 0.0], [9.0, 0.0], [0.0, 9.0]]), half, half, 0.1)
    tensor([0.7249, 0.2751])
    """
    posterior = (logits.log_softmax(dim=1) + prior.log() - label_prior.log()).softmax(dim=1)
    return posterior.mean(dim=0).lerp(torch.full_like(prior, 1 / len(prior)), pull)


def sample_one_hot(prior: Tensor, like: Tensor, generator: torch.Generator) -> Tensor:
    """Draw one-hot labels from the (C,) prior, with the shape (N, C) and dtype of `like`."""
    prior = prior.to(generator.device)
    drawn = torch.multinomial(prior, len(like), replacement=True, generator=generator)
    return torch.nn.functional.one_hot(drawn, len(prior)).to(like)


def adversarial(
    name: str, critic: Critic, real: Tensor, fake: Tensor, penalty: float = 0.0
) -> dict[str, Tensor]:
    """Return two scalars: `kl_NAME`, which the projector minimises, and `critic_NAME`, the critic's own loss.

    `real` and `fake` are (N, d). The KL passes gradients to `fake` but none to the critic; the critic's loss
    passes none to either. `penalty` is the weight of E |d logit/dx|^2 over real and fake samples (arXiv
    1801.04406, equations 9 and 10). Without it, logits grow without bound if real and fake do not overlap.
    """
    loss = critic_loss(critic(real.detach()), critic(fake.detach()))
    if penalty:
        x = torch.cat([real, fake]).detach().requires_grad_()
        (slope,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
        loss = loss + penalty * slope.square().sum(1).mean()
    return {f"kl_{name}": critic_kl(critic.frozen(fake)), f"critic_{name}": loss}
