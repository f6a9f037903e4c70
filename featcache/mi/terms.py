"""Terms of bounds on mutual information: pure functions of tensors, in nats.

Objectives and `featcache.mi.estimators` are made of them. The two bounds of TwinTURBO (arXiv 2503.07851):

    I(X;Y)  >= E log q(y|x) - E_p(y) log q(y) - KL(p(y) || q(y))        the task bound
    I(X;Z*) >= E log q(z*|x) - E log q(z*) - KL(p(z*) || q(z*))         the latent bound
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from featcache.nn.init import cosine, unit


def log_mean_exp(x: Tensor, dim: int = 0) -> Tensor:
    """Return log mean exp(x) over one dimension.

    >>> log_mean_exp(torch.tensor([1.0, 3.0]).log()).exp()
    tensor(2.)
    """
    return x.logsumexp(dim=dim) - math.log(x.shape[dim])


def entropy(prior: Tensor) -> Tensor:
    """Return H(p) = -sum_y p log p of a (C,) distribution, with 0 log 0 = 0.

    >>> entropy(torch.tensor([0.5, 0.5, 0.0]))
    tensor(0.6931)
    """
    return -torch.xlogy(prior, prior).sum()


def marginal_cross_entropy(state_weights: Tensor, log_marginal: Tensor) -> Tensor:
    """Return CE_marg = -E_p(y) log q(y), a scalar, from the weights and log q of the same (S, C) states."""
    return -(state_weights * log_marginal).sum()


def marginal_kl(prior: Tensor, state_weights: Tensor, log_marginal: Tensor) -> Tensor:
    """Return KL_y = KL(p(y) || q(y)) = CE_marg - H(p(y)), a scalar, in closed form.

    `prior` is p(y), (C,). `state_weights` distributes it over the (S, C) states of the marginal. A label sets
    all C class variables at once, so the entropy is that of the label for every family of q.
    """
    return marginal_cross_entropy(state_weights, log_marginal) - entropy(prior)


def moving_log(now: Tensor, past: Tensor, keep: Tensor) -> Tensor:
    """Return log(keep exp(past) + (1 - keep) exp(now)), a moving average in logs, without a gradient.

    `now` and `past` are logs of one shape; `keep` is a scalar in [0, 1).

    >>> moving_log(torch.tensor(0.2).log(), torch.tensor(0.6).log(), torch.tensor(0.5)).exp()
    tensor(0.4000)
    """
    return torch.logaddexp(past + keep.log(), now + torch.log1p(-keep)).detach()


def moving_log_mean(now: Tensor, past: Tensor, keep: Tensor) -> Tensor:
    """Return `moving_log` with the gradient d exp(now) / m, where m is the moving average.

    The gradient is not shrunk by (1 - keep), so it is that of an endless batch. Source: MINE's correction
    (arXiv 1801.04062, section 3.2).
    """
    value = moving_log(now, past, keep)
    ratio = (now - value).exp()
    return value + ratio - ratio.detach()


def cosine_scores(x: Tensor, y: Tensor, tau: float) -> Tensor:
    """Return cos(x_i, y_j) / tau, (M, N), of all pairs of (M, d) and (N, d)."""
    return unit(x) @ unit(y).mT / tau


def info_nce(scores: Tensor, target: Tensor | None = None) -> Tensor:
    """Return -E_i sum_j target_ij log softmax_j(scores_ij), a scalar, from (M, N) scores.

    The rows of `target`, (M, N), sum to one. By default query i belongs to key i. With B scores a row,
    log B - info_nce is InfoNCE, a lower bound on mutual information. Source: arXiv 1807.03748.

    >>> info_nce(torch.eye(2))
    tensor(0.3133)
    """
    index = torch.arange(len(scores), device=scores.device)
    return F.cross_entropy(scores, index if target is None else target.to(scores))


def align(h: Tensor, target: Tensor, tau: float) -> Tensor:
    """Return -E cos(h_i, z*_i) / tau, a scalar: how far (B, P) latents point away from the frozen ones.

    The positive half of the decomposition of contrastive losses (arXiv 2005.10242, section 4).
    """
    return -cosine(h, target).mean() / tau


def uniform(h: Tensor, target: Tensor, tau: float) -> Tensor:
    """Return E_i log 1/B sum_j exp(cos(h_i, z*_j) / tau), a scalar: the log marginal of the frozen latent.

    Both inputs are (B, P). log B - info_nce(cosine_scores(h, target, tau)) is -(align + uniform). It is at
    most log B, and at most I(X;Z*) in expectation.

    >>> h, target = torch.randn(2, 9, 4, generator=torch.Generator().manual_seed(0))
    >>> bound = math.log(9) - info_nce(cosine_scores(h, target, tau=0.5))
    >>> torch.allclose(bound, -(align(h, target, 0.5) + uniform(h, target, 0.5)))
    True
    """
    return log_mean_exp(cosine_scores(h, target, tau), dim=1).mean()


def critic_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Return the binary cross-entropy of critic logits, real as 1 and fake as 0, equally weighted.

    A scalar; log 2 at chance. The shapes of `real` and `fake` may differ.
    """
    return (F.softplus(-real).mean() + F.softplus(fake).mean()) / 2


def critic_kl(fake: Tensor) -> Tensor:
    """Return KL(fake || real) = -E_fake log(p_real / p_fake), from the logits of a critic at its optimum.

    Our reading: the bounds name KL(real || fake). Only the expectation over the fakes has a gradient for the
    network that makes them, and both divergences are zero at the same place.
    """
    return -fake.mean()
