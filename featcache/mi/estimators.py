"""Estimators of I(X;Y) from a critic's scores of B pairs, each with the loss that trains the critic.

    scores[i, j] = T(x_i, y_j),   (x_i, y_i) ~ p(x, y) independent,   (B, B)

E_p is the mean over the diagonal, which has samples of p(x, y). E_q is the mean over the other B (B - 1)
scores, which have samples of p(x) p(y). r = p(x, y) / p(x) p(y) is the density ratio, so I = E_p log r.

All values are in nats. float16 and bfloat16 are computed in float32; float64 stays float64. Scores that are
not a square matrix with two rows or more raise TrainError.

Sources: Poole et al., arXiv 1905.06922, and Song and Ermon, arXiv 1910.06222, compare these estimators. Each
docstring names the original paper. docs/mi.md compares them on correlated Gaussians.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from featcache.errors import ConfigError, TrainError
from featcache.mi.terms import critic_loss, info_nce, log_mean_exp, moving_log

STEEPEST = 30.0
"""The exponential of `nwj` continues as its tangent above this, so that values and gradients stay finite."""


class Bound(NamedTuple):
    """An estimate of the mutual information, in nats, and the loss of its critic; both scalars."""

    estimate: Tensor
    """The estimate, without a gradient."""
    loss: Tensor
    """The loss to minimise: -estimate, or a loss with another value or gradient."""


def infonce(scores: Tensor) -> Bound:
    """Estimate by InfoNCE: I >= log B + E_p[T(x_i, y_i) - log sum_j exp T(x_i, y_j)] of (B, B) scores.

    The sum runs over the row, including the true partner. The loss is -estimate. It is a lower bound for
    every critic and every B, with a small variance. It is at most log B, however large I is. Tight for
    T = log r + c(x). Source: van den Oord et al., arXiv 1807.03748, section 2.3.

    >>> estimate, loss = infonce(torch.tensor([[9.0, 0.0], [0.0, 9.0]]))
    >>> round(estimate.item(), 4), round(loss.item(), 4), round(math.log(2), 4)
    (0.693, -0.693, 0.6931)
    """
    scores = _matrix(scores)
    return _own(math.log(len(scores)) - info_nce(scores))


def nwj(scores: Tensor) -> Bound:
    """Estimate by Nguyen, Wainwright and Jordan: I >= E_p T - E_q exp(T - 1) of (B, B) scores.

    The loss is -estimate. It is a lower bound for every critic, and unbiased for every B. Tight for
    T = 1 + log r. With n independent samples of q, its variance is at least (exp(I) - 1) / n:
    Var_q r = E_p r - 1, and log E_p r >= I. If I exceeds log n, a few rare samples dominate the second term.
    Batches without them give about I + 1, and their small variance hides the error.

    An exponent above 30 continues along the tangent. The estimate is below -1e13 there, and still a bound.
    Source: arXiv 0809.0853; in this form, the KL divergence of f-GAN (Nowozin et al., arXiv 1606.00709, table
    2).

    >>> nwj(torch.ones(4, 4)).estimate
    tensor(0.)
    """
    joint, rest = _parts(scores)
    return _own(joint.mean() - _exp(log_mean_exp(rest.flatten()) - 1))


def donsker_varadhan(
    scores: Tensor, average: Tensor | None = None, decay: float = 0.99
) -> tuple[Bound, Tensor]:
    """Estimate by Donsker and Varadhan, trained as in MINE: I >= E_p T - log E_q exp T of (B, B) scores.

    The logarithm biases the gradient of a batch. MINE replaces it by a moving average m of E_q exp T:

        gradient of the loss = -E_p dT + E_q[exp(T) dT] / m,    m <- decay m + (1 - decay) E_q exp T

    Return the bound and the new `average`, which is log m, a scalar without a gradient. Pass None in the
    first call, where m is the batch's own mean, and then the average from the previous call. The loss has the
    value of -estimate, and the gradient above.

    It is a lower bound only for endless samples. The logarithm of a mean of n is too small on average, so the
    estimate is too high: by (exp(I) - 1) / 2n or more at T = log r, and without limit once I exceeds log n.
    The variance grows as for `nwj`. Tight for T = log r + c. Source: Belghazi et al., arXiv 1801.04062,
    section 3.2.

    Raise ConfigError for a decay outside [0, 1).

    >>> bound, average = donsker_varadhan(torch.tensor([[3.0, 1.0], [1.0, 3.0]]))
    >>> bound.estimate, average
    (tensor(2.), tensor(1.))
    >>> donsker_varadhan(torch.zeros(2, 2), average, decay=0.5)[1].exp()
    tensor(1.8591)
    """
    if not 0 <= decay < 1:
        raise ConfigError("decay must be in [0, 1)", got=f"decay={decay}", expected="0 <= decay < 1")
    joint, rest = _parts(scores)
    now = log_mean_exp(rest.flatten())
    past, keep = (now.detach(), 0.0) if average is None else (average, decay)
    moved = moving_log(now, past, now.new_tensor(keep))
    ratio = (now - moved).exp()
    value = joint.mean() - now.detach()
    return Bound(value.detach(), -value + (ratio - ratio.detach())), moved


def smile(scores: Tensor, tau: float = 5.0) -> Bound:
    """Estimate by SMILE: I ~ E_p T - log E_q clip(exp T, exp(-tau), exp(tau)) of (B, B) scores.

    It is not a lower bound. Clipping bounds the variance of the second term but adds bias. The term is at
    least -tau, so a large I is overestimated by up to tau at T = log r. Without clipping (tau = inf) it is
    Donsker-Varadhan. The loss is that of `jensen_shannon`, whose best critic is log r, as in the authors'
    code. Source: Song and Ermon, arXiv 1910.06222, section 5 (with tau of 1, 5 and infinity).

    Raise ConfigError for a tau that is not positive.

    >>> smile(torch.tensor([[3.0, -9.0], [-9.0, 3.0]]), tau=5.0).estimate
    tensor(8.)
    """
    if not tau > 0:
        raise ConfigError("tau must be positive", got=f"tau={tau}", expected="tau > 0")
    joint, rest = _parts(scores)
    estimate = joint.mean() - log_mean_exp(rest.clamp(-tau, tau).flatten())
    return Bound(estimate.detach(), 2 * critic_loss(joint, rest))


def jensen_shannon(scores: Tensor) -> Bound:
    """Estimate by Jensen-Shannon: the critic learns to classify (B, B) pairs, and gives the log ratio.

        loss = E_p softplus(-T) + E_q softplus(T),    estimate = 1 + E_p T - E_q exp T

    log 4 - loss is a lower bound on twice the Jensen-Shannon divergence of p(x, y) and p(x) p(y), not on I.
    Training is stable, and the best critic is T = log r. The estimate is `nwj` at 1 + T. It is a lower bound
    on I for every critic, with the limits and the variance of `nwj`. Source: Hjelm et al., arXiv 1808.06670,
    eq. 4, after f-GAN (arXiv 1606.00709, table 2). The estimate: arXiv 1905.06922, section 2.

    >>> bound = jensen_shannon(torch.zeros(3, 3))
    >>> bound.estimate, round(bound.loss.item(), 4), round(math.log(4), 4)
    (tensor(0.), 1.3863, 1.3863)
    """
    scores = _matrix(scores)
    return Bound(nwj(scores.detach() + 1).estimate, 2 * critic_loss(*_parts(scores)))


def barber_agakov(log_decoder: Tensor, log_prior: Tensor) -> Bound:
    """Estimate by Barber and Agakov: I >= E_p[log q(x|y) - log p(x)] = E_p log q(x|y) + H(X).

    `log_decoder` is log q(x_i|y_i), (B,), of a normalised decoder. `log_prior` is log p(x_i), (B,), or the
    scalar -H(X) if only the entropy is known. Both are in the same coordinates. The loss is -estimate.

    It is an unbiased lower bound for every decoder, with the variance of a mean. Its gap is
    E_p KL(p(x|y) || q(x|y)). p(x) or its entropy must be known, which is not so for a learned x. Source:
    Barber and Agakov, NeurIPS 2003; arXiv 1905.06922, section 2.1.

    Raise TrainError for a decoder that is not (B,), or a prior that is neither (B,) nor a scalar.

    >>> half, certain = torch.tensor(0.5).log(), torch.zeros(4)
    >>> barber_agakov(certain, half).estimate
    tensor(0.6931)
    """
    if log_decoder.ndim != 1 or not len(log_decoder) or log_prior.shape not in ((), log_decoder.shape):
        raise TrainError(
            "the shapes of decoder and prior do not match",
            got=f"log q(x|y) of shape {tuple(log_decoder.shape)}, log p(x) of {tuple(log_prior.shape)}",
            expected="(B,) for log q(x|y); (B,), or () for its mean, for log p(x)",
        )
    return _own((_precise(log_decoder) - _precise(log_prior)).mean())


def _own(bound: Tensor) -> Bound:
    """Return a bound whose loss is its negative estimate."""
    return Bound(bound.detach(), -bound)


def _precise(x: Tensor) -> Tensor:
    """Return x in float32 or wider."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _matrix(scores: Tensor) -> Tensor:
    """Return the scores in float32 or wider; raise TrainError if they are not (B, B) with B >= 2."""
    if scores.ndim != 2 or scores.shape[0] != scores.shape[1] or len(scores) < 2:
        raise TrainError(
            "the scores are not a matrix of all pairs",
            got=f"shape {tuple(scores.shape)}",
            expected="(B, B) with B >= 2",
            hint="score every x with every y: scores[i, j] = T(x_i, y_j)",
        )
    return _precise(scores)


def _parts(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Return the diagonal, (B,), and the other scores, (B - 1, B)."""
    scores = _matrix(scores)
    n = len(scores)
    # Without its first element, the flat matrix is n - 1 rows of n + 1 that each end in a diagonal element.
    return scores.diagonal(), scores.flatten()[1:].reshape(n - 1, n + 1)[:, :-1]


def _exp(x: Tensor) -> Tensor:
    """Return exp(x), continued above STEEPEST as its tangent."""
    low = x.clamp(max=STEEPEST)
    return low.exp() * (x - low + 1)
