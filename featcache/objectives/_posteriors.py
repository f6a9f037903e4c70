"""The families of q(y|x): what logits (B, C) mean as likelihoods, marginals, entropies and probabilities.

All values are in nats and are computed from log-sigmoids and log-sum-exps, so that confident and wrong
predictions stay finite. Source: the parameterisations of TwinTURBO (arXiv 2503.07851); each class says where
the reading is ours. For each of them, with H the entropy and p(y) the true class prior,

    E log q(y|x) + H(p(y)) <= I(X;Y)

so that the task bound built from their terms holds whatever the logits are.
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
    """One family; stateless."""

    @abstractmethod
    def log_likelihood(self, logits: Tensor, label: Tensor) -> Tensor:
        """log q(y_i|x_i), (B,), from (B, C) logits and (B,) labels."""

    @abstractmethod
    def log_marginal(self, logits: Tensor) -> Tensor:
        """Log of q(y), the mean of q(y|x) over the batch: (S, C), one row per state of a class variable."""

    def state_weights(self, prior: Tensor) -> Tensor:
        """The (C,) class prior p(y) as weights over the states of `log_marginal`, (S, C)."""
        return prior.unsqueeze(0)

    def entropy(self, logits: Tensor) -> Tensor:
        """H(q(y|x)) per sample, (B,)."""
        log_q = logits.log_softmax(dim=-1)
        return -(log_q.exp() * log_q).sum(dim=-1)

    def probabilities(self, logits: Tensor) -> Tensor:
        """q(y|x) as vectors (B, C): what a critic compares with one-hot labels."""
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
    marginal is the product over classes of r_c = E_x sigmoid(l_c), its states t_c = 1 and 0 in two rows.
    Our reading: the product spends probability on vectors that are not one-hot, which keeps the bound on
    I(X;Y) valid, but makes it tight only for posteriors that are certain. A sum of C one-class bounds would
    exceed I(X;Y).
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
    denominators are the marginal. Our reading of the paper. q(y|x) sums to one only in the mean over the
    batch; by Jensen's inequality the bound still holds (it is Donsker and Varadhan's, with the batch standing
    for p(x)). Entropies and probability vectors are those of q(y|x) renormalised per sample.
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
    return table.gather(-1, label.unsqueeze(-1)).squeeze(-1)
