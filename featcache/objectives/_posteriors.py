"""Families of q(y|x): likelihood, marginal, entropy and probabilities from logits (B, C).

All values are in nats. They are computed from log-sigmoids and log-sum-exps, so that confident and wrong
predictions stay finite. Source: the parameterisations of TwinTURBO (arXiv 2503.07851); each class states
which reading is ours. For each family, with H the entropy and p(y) the true class prior,

    E log q(y|x) + H(p(y)) <= I(X;Y)

so the task bound built from these terms holds for all logits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from featcache.mi.terms import log_mean_exp

PosteriorName = Literal["categorical", "binary", "infonce"]


class Posterior(ABC):
    """One family of q(y|x); stateless."""

    @abstractmethod
    def log_likelihood(self, logits: Tensor, label: Tensor) -> Tensor:
        """Return log q(y_i|x_i), (B,), from (B, C) logits and (B,) labels."""

    @abstractmethod
    def log_marginal(self, logits: Tensor) -> Tensor:
        """Return log q(y), with q(y) the mean of q(y|x) over the batch.

        (S, C), one row for each state of a class variable: S is 2 for binary variables, else 1.
        """

    def state_weights(self, prior: Tensor) -> Tensor:
        """Return the (C,) class prior p(y) as weights of the states of `log_marginal`, (S, C)."""
        return prior.unsqueeze(0)

    def entropy(self, logits: Tensor) -> Tensor:
        """Return H(q(y|x)) per sample, (B,)."""
        log_q = logits.log_softmax(dim=-1)
        return -(log_q.exp() * log_q).sum(dim=-1)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return q(y|x) as vectors, (B, C), which a critic compares with one-hot labels."""
        return logits.softmax(dim=-1)


class Categorical(Posterior):
    """q(y|x) = softmax(logits)_y; q(y) = E_x q(y|x)."""

    def log_likelihood(self, logits: Tensor, label: Tensor) -> Tensor:
        return _of(logits.log_softmax(dim=-1), label)

    def log_marginal(self, logits: Tensor) -> Tensor:
        return log_mean_exp(logits.log_softmax(dim=-1)).unsqueeze(0)


class Binary(Posterior):
    """C independent Bernoulli variables: q(t|x) = prod_c sigmoid(l_c)^t_c sigmoid(-l_c)^(1 - t_c).

    A label y is the one-hot vector t, so log q(y|x) is minus the sum of C sigmoid cross-entropies. The
    marginal is the product over classes of r_c = E_x sigmoid(l_c); its two rows are the states t_c = 1 and 0.
    Our reading: the product gives probability to vectors that are not one-hot. The bound on I(X;Y) stays
    valid, but it is tight only for certain posteriors. A sum of C one-class bounds would exceed I(X;Y).
    """

    def log_likelihood(self, logits: Tensor, label: Tensor) -> Tensor:
        target = F.one_hot(label, logits.shape[-1]).to(logits.dtype)
        return -F.binary_cross_entropy_with_logits(logits, target, reduction="none").sum(dim=-1)

    def log_marginal(self, logits: Tensor) -> Tensor:
        return torch.stack([log_mean_exp(F.logsigmoid(logits)), log_mean_exp(F.logsigmoid(-logits))])

    def state_weights(self, prior: Tensor) -> Tensor:
        return torch.stack([prior, 1 - prior])

    def entropy(self, logits: Tensor) -> Tensor:
        yes, no = logits.sigmoid() * F.logsigmoid(logits), (-logits).sigmoid() * F.logsigmoid(-logits)
        return -(yes + no).sum(dim=-1)

    def probabilities(self, logits: Tensor) -> Tensor:
        return logits.sigmoid()


class InfoNCE(Posterior):
    """Similarities s(x, y) to the class embeddings, normalised over the batch and the classes together.

        q(y|x_i) = exp s(x_i, y) / Z,    Z = 1/B sum_j sum_c exp s(x_j, c)
        q(y)     = E_x q(y|x) = (1/B sum_j exp s(x_j, y)) / Z

    so log q(y|x) - log q(y) is InfoNCE with the batch as negatives (arXiv 1807.03748, eq. 4), and its
    denominators are the marginal. This is our reading of the paper. q(y|x) sums to one only in the mean over
    the batch. The bound still holds by Jensen's inequality: it is Donsker and Varadhan's, with the batch in
    place of p(x). Entropies and probability vectors are those of q(y|x) renormalised per sample.
    """

    def log_likelihood(self, logits: Tensor, label: Tensor) -> Tensor:
        return _of(logits, label) - log_mean_exp(logits).logsumexp(dim=-1)

    def log_marginal(self, logits: Tensor) -> Tensor:
        return log_mean_exp(logits).log_softmax(dim=-1).unsqueeze(0)


POSTERIORS: dict[PosteriorName, Posterior] = {
    "categorical": Categorical(),
    "binary": Binary(),
    "infonce": InfoNCE(),
}


def _of(table: Tensor, label: Tensor) -> Tensor:
    """Return the (B,) entries of a (B, C) table at the labels."""
    return table.gather(-1, label.unsqueeze(-1)).squeeze(-1)
