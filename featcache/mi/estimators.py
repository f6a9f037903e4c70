"""Estimates of I(X;Y) from a critic's scores of B pairs, each with the loss that trains the critic.

    scores[i, j] = T(x_i, y_j),   (x_i, y_i) ~ p(x, y) independent,   (B, B)

E_p is the mean over the diagonal, samples of p(x, y); E_q the mean over the other B (B - 1) scores, samples
of p(x) p(y); r = p(x, y) / p(x) p(y) is the density ratio: I = E_p log r. All values are in nats. float16 and
bfloat16 are computed in float32; float64 stays. Scores that are not a square matrix of two rows or more
raise TrainError.

Sources: Poole et al., arXiv 1905.06922, and Song and Ermon, arXiv 1910.06222, who compare them; the paper
that each comes from stands with it. What they are worth on correlated Gaussians: docs/mi.md.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from featcache.errors import ConfigError, TrainError
from featcache.mi.terms import critic_loss, info_nce, log_mean_exp, moving_log

STEEPEST = 30.0
"""Where the exponential of `nwj` goes over into its tangent, so that no value or gradient is infinite."""


class Bound(NamedTuple):
    """An estimate of the mutual information, in nats, and what trains its critic; both scalars."""

    estimate: Tensor
    """Without a gradient."""
    loss: Tensor
    """To minimise: -estimate where the bound trains itself, otherwise of another value or gradient."""


def infonce(scores: Tensor) -> Bound:
    """InfoNCE: I >= log B + E_p[T(x_i, y_i) - log sum_j exp T(x_i, y_j)] of (B, B) scores.

    The sum runs over the row, the true partner included; the loss is -estimate. A lower bound for every
    critic and every B, of small variance, and never above log B: of more information it knows nothing. Best
    for T = log r + c(x). Source: van den Oord et al., arXiv 1807.03748, section 2.3.

    >>> estimate, loss = infonce(torch.tensor([[9.0, 0.0], [0.0, 9.0]]))
    >>> round(estimate.item(), 4), round(loss.item(), 4), round(math.log(2), 4)
    (0.693, -0.693, 0.6931)
    """
    scores = _matrix(scores)
    return _own(math.log(len(scores)) - info_nce(scores))


def nwj(scores: Tensor) -> Bound:
    """Nguyen, Wainwright and Jordan: I >= E_p T - E_q exp(T - 1) of (B, B) scores.

    The loss is -estimate. A lower bound for every critic, unbiased for every B; tight for T = 1 + log r, one
    more than the log ratio. Its variance is at least (exp(I) - 1) / n over n independent samples of q, as
    Var_q r = E_p r - 1 and log E_p r >= I. Where I exceeds log n, a few rare samples carry the second term;
    the batches without them say about I + 1, and their spread does not warn.

    An exponent above 30 goes on along the tangent: the estimate is below -1e13 there, still a bound. Source:
    arXiv 0809.0853; in this form, the KL divergence of f-GAN (Nowozin et al., arXiv 1606.00709, table 2).

    >>> nwj(torch.ones(4, 4)).estimate
    tensor(0.)
    """
    joint, rest = _parts(scores)
    return _own(joint.mean() - _exp(log_mean_exp(rest.flatten()) - 1))


def donsker_varadhan(
    scores: Tensor, average: Tensor | None = None, decay: float = 0.99
) -> tuple[Bound, Tensor]:
    """Donsker and Varadhan, as MINE trains it: I >= E_p T - log E_q exp T of (B, B) scores; also the state.

    The logarithm biases the gradient of a batch. MINE puts a moving average m of E_q exp T in its place:

        gradient of the loss = -E_p dT + E_q[exp(T) dT] / m,    m <- decay m + (1 - decay) E_q exp T

    `average` is log m, a scalar without a gradient: None at first, when m is the batch's own, then what the
    call before returned. Nothing else is remembered. The loss has the value of -estimate, and this gradient.

    A lower bound with endless samples only. The logarithm of a mean of n is too small on average, so that
    the estimate is too high, by (exp(I) - 1) / 2n and more at T = log r, and without limit once I exceeds
    log n. The variance grows as for `nwj`. Tight for T = log r + c. Source: Belghazi et al., arXiv
    1801.04062, section 3.2.

    Raises ConfigError for a decay outside [0, 1).

    >>> bound, average = donsker_varadhan(torch.tensor([[3.0, 1.0], [1.0, 3.0]]))
    >>> bound.estimate, average
    (tensor(2.), tensor(1.))
    >>> donsker_varadhan(torch.zeros(2, 2), average, decay=0.5)[1].exp()
    tensor(1.8591)
    """
    if not 0 <= decay < 1:
        raise ConfigError("a moving average must move", got=f"decay={decay}", expected="0 <= decay < 1")
    joint, rest = _parts(scores)
    now = log_mean_exp(rest.flatten())
    past, keep = (now.detach(), 0.0) if average is None else (average, decay)
    moved = moving_log(now, past, now.new_tensor(keep))
    ratio = (now - moved).exp()
    value = joint.mean() - now.detach()
    return Bound(value.detach(), -value + (ratio - ratio.detach())), moved


def smile(scores: Tensor, tau: float = 5.0) -> Bound:
    """SMILE: I ~ E_p T - log E_q clip(exp T, exp(-tau), exp(tau)) of (B, B) scores; not a lower bound.

    Clipping bounds the variance of the second term and pays with bias: the term is at least -tau, so that a
    large I is overestimated by up to tau at T = log r. Without a clip (tau = inf) it is Donsker-Varadhan. The
    loss is that of `jensen_shannon`, whose best critic is log r, as in the authors' code. Source: Song and
    Ermon, arXiv 1910.06222, section 5 (with tau of 1, 5 and infinity).

    Raises ConfigError for a tau that is not positive.

    >>> smile(torch.tensor([[3.0, -9.0], [-9.0, 3.0]]), tau=5.0).estimate
    tensor(8.)
    """
    if not tau > 0:
        raise ConfigError("nothing is left between the clips", got=f"tau={tau}", expected="tau > 0")
    joint, rest = _parts(scores)
    estimate = joint.mean() - log_mean_exp(rest.clamp(-tau, tau).flatten())
    return Bound(estimate.detach(), 2 * critic_loss(joint, rest))


def jensen_shannon(scores: Tensor) -> Bound:
    """Jensen-Shannon, of (B, B) scores: trained to tell the pairs apart, read as a log ratio.

        loss = E_p softplus(-T) + E_q softplus(T),    estimate = 1 + E_p T - E_q exp T

    log 4 - loss is a lower bound on twice the Jensen-Shannon divergence of p(x, y) and p(x) p(y), not on I.
    It trains steadily, and its best critic is T = log r. The estimate is `nwj` at 1 + T: a lower bound on I
    for every critic, with the limits and the variance of `nwj`. Source: Hjelm et al., arXiv 1808.06670,
    eq. 4, after f-GAN (arXiv 1606.00709, table 2); the estimate: arXiv 1905.06922, section 2.

    >>> bound = jensen_shannon(torch.zeros(3, 3))
    >>> bound.estimate, round(bound.loss.item(), 4), round(math.log(4), 4)
    (tensor(0.), 1.3863, 1.3863)
    """
    scores = _matrix(scores)
    return Bound(nwj(scores.detach() + 1).estimate, 2 * critic_loss(*_parts(scores)))


def barber_agakov(log_decoder: Tensor, log_prior: Tensor) -> Bound:
    """Barber and Agakov: I >= E_p[log q(x|y) - log p(x)] = E_p log q(x|y) + H(X).

    `log_decoder` is log q(x_i|y_i), (B,), of a normalised decoder; `log_prior` is log p(x_i), (B,), or the
    scalar -H(X) where only the entropy is known, both in the same coordinates. The loss is -estimate.

    A lower bound for every decoder, unbiased, with the variance of a mean; it misses
    E_p KL(p(x|y) || q(x|y)). It needs to know p(x) or its entropy, which a learned x does not. Source: Barber
    and Agakov, NeurIPS 2003; arXiv 1905.06922, section 2.1.

    Raises TrainError for a decoder that is not (B,), or a prior that is neither (B,) nor a scalar.

    >>> half, certain = torch.tensor(0.5).log(), torch.zeros(4)
    >>> barber_agakov(certain, half).estimate
    tensor(0.6931)
    """
    if log_decoder.ndim != 1 or not len(log_decoder) or log_prior.shape not in ((), log_decoder.shape):
        raise TrainError(
            "the decoder and the prior do not fit each other",
            got=f"log q(x|y) of shape {tuple(log_decoder.shape)}, log p(x) of {tuple(log_prior.shape)}",
            expected="(B,) for log q(x|y); (B,), or () for its mean, for log p(x)",
        )
    return _own((_precise(log_decoder) - _precise(log_prior)).mean())


def _own(bound: Tensor) -> Bound:
    """A bound that is its own objective."""
    return Bound(bound.detach(), -bound)


def _precise(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _matrix(scores: Tensor) -> Tensor:
    if scores.ndim != 2 or scores.shape[0] != scores.shape[1] or len(scores) < 2:
        raise TrainError(
            "the scores are not those of all pairs in a batch",
            got=f"shape {tuple(scores.shape)}",
            expected="(B, B) with B >= 2",
            hint="score every x with every y: scores[i, j] = T(x_i, y_j)",
        )
    return _precise(scores)


def _parts(scores: Tensor) -> tuple[Tensor, Tensor]:
    """The diagonal, (B,), and the rest, (B - 1, B)."""
    scores = _matrix(scores)
    n = len(scores)
    # Without its first element, the flat matrix is n - 1 rows of n + 1 that end in a diagonal element.
    return scores.diagonal(), scores.flatten()[1:].reshape(n - 1, n + 1)[:, :-1]


def _exp(x: Tensor) -> Tensor:
    low = x.clamp(max=STEEPEST)
    return low.exp() * (x - low + 1)
