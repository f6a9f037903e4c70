"""Terms of variational bounds on mutual information: pure functions of tensors, in nats.

The two bounds of TwinTURBO (arXiv 2503.07851):

    I(X;Y)  >= E log q(y|x) - E_p(y) log q(y) - KL(p(y) || q(y))        the task bound
    I(X;Z*) >= E log q(z*|x) - E log q(z*) - KL(p(z*) || q(z*))         the latent bound
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from featcache.nn.init import unit


def entropy(prior: Tensor) -> Tensor:
    """H(p) = -sum_y p log p of a (C,) distribution, with 0 log 0 = 0.

    >>> entropy(torch.tensor([0.5, 0.5, 0.0]))
    tensor(0.6931)
    """
    return -torch.xlogy(prior, prior).sum()


def marginal_cross_entropy(weights: Tensor, log_marginal: Tensor) -> Tensor:
    """CE_marg = -E_p(y) log q(y): weights and log q over the same states, both (S, C), to a scalar."""
    return -(weights * log_marginal).sum()


def marginal_kl(prior: Tensor, weights: Tensor, log_marginal: Tensor) -> Tensor:
    """KL_y = KL(p(y) || q(y)) = CE_marg - H(p(y)), a scalar, in closed form.

    `weights` is the (C,) prior spread over the (S, C) states of the marginal: one label is one value of all C
    class variables at once, so that the entropy is that of the label for every family of q.
    """
    return marginal_cross_entropy(weights, log_marginal) - entropy(prior)


def moving_log_mean(now: Tensor, past: Tensor, keep: Tensor) -> Tensor:
    """log(keep exp(past) + (1 - keep) exp(now)): an exponential moving average of probabilities, in logs.

    The gradient with respect to `now` is that of an endless batch: d log q = d exp(now) / q, with q the
    moving average, not shrunk by (1 - keep). It is MINE's correction (arXiv 1801.04062, section 3.2): the
    average says where on the logarithm we are, the batch says which way to go.

    >>> moving_log_mean(torch.tensor(0.2).log(), torch.tensor(0.6).log(), torch.tensor(0.5)).exp()
    tensor(0.4000)
    """
    value = torch.logaddexp(past + keep.log(), now + torch.log1p(-keep)).detach()
    ratio = (now - value).exp()
    return value + ratio - ratio.detach()


def align(h: Tensor, target: Tensor, tau: float) -> Tensor:
    """-E cos(h_i, z*_i) / tau over (B, P) pairs: how far the adapted latent points away from the frozen one.

    The positive half of the decomposition of contrastive losses (arXiv 2005.10242, section 4).
    """
    return -(unit(h) * unit(target)).sum(dim=-1).mean() / tau


def uniform(h: Tensor, target: Tensor, tau: float) -> Tensor:
    """E_i log 1/B sum_j exp(cos(h_i, z*_j) / tau) over (B, P) pairs: the log marginal of the frozen latent.

    -(align + uniform) is InfoNCE (arXiv 1807.03748): at most log B, and at most I(X;Z*) in expectation.
    """
    similarity = unit(h) @ unit(target).mT / tau
    return (similarity.logsumexp(dim=1) - math.log(len(target))).mean()


def critic_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Binary cross-entropy of critic logits, real as 1 and fake as 0, equally weighted: log 2 at chance."""
    return (F.softplus(-real).mean() + F.softplus(fake).mean()) / 2


def critic_kl(fake: Tensor) -> Tensor:
    """KL(fake || real) = -E_fake log(p_real / p_fake), from the logits of a critic at its optimum.

    Our reading: the bounds name KL(real || fake), but only the expectation over the fakes has a gradient for
    whoever makes them, and both are zero at the same place.
    """
    return -fake.mean()
