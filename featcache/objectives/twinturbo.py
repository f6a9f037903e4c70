"""TwinTURBO: two lower bounds on mutual information, maximised together (arXiv 2503.07851).

    I(X;Y)  >= -CE_cond + CE_marg - KL_y                     the task bound
    I(X;Z*) >= -(align + uniform) - KL_z                     the latent bound

    loss = CE_cond
         + r [ -w_marg CE_marg + w_y KL_y + w_critic KL_c + w_ent ent + w_z (align + uniform) + w_kz KL_z ]

- CE_cond = -E_L log q(y|x) on the labelled batch;
- CE_marg = -E_p(y) log q(y), with q(y) a mean over the unlabelled batch and a moving average over batches;
- KL_y = KL(p(y) || q(y)), in closed form;
- KL_c is the same divergence, estimated by a critic (our reading). The critic separates one-hot labels drawn
  from p(y) from predicted vectors q(y|x), so KL_c also rewards confidence. docs/results.md shows when not to
  use it;
- ent = E_U H(q(y|x)) is our addition, as in information maximisation: on U, q replaces the unknown p(y|x);
- align = -E cos(h(z), z*)/tau and uniform = E log mean_j exp(cos(h(z_i), z*_j)/tau), with h linear;
- KL_z is estimated by a critic that separates h(z) from z*;
- r rises from 0 to 1 over the first part of training.

p(y) is given or learned. It is learned by one step of EM on q(y|x) in each batch (Saerens et al., 2002). It
moves as q(y) does, with a pull to uniform. This is our reading: the paper has no unknown prior. EM assumes
that q is a posterior under the label frequencies (with one added to each count), but KL_y moves q away from
them. Without the pull, a class that is predicted less would also be expected less.

KL_y - CE_marg = -H(p(y)) is constant in closed form, so only w_y - w_marg matters. CE_marg is therefore
reported with weight 0 by default. Without unlabelled rows, the labelled batch replaces the unlabelled one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, cast

import pydantic
import torch
from torch import Tensor

from featcache.batch import Batch, Features, Views, nearest_view
from featcache.config import Config
from featcache.mi.terms import align, marginal_cross_entropy, marginal_kl, moving_log_mean, uniform
from featcache.nn.critics import Critic
from featcache.nn.heads import SCALE, CosineHead
from featcache.nn.init import isometry, unit
from featcache.objectives._adversarial import Prior, adversarial, class_prior, em_prior, sample_one_hot
from featcache.objectives._posteriors import POSTERIORS, PosteriorName
from featcache.objectives.base import Objective, Project, Task, ramp

Terms = dict[str, Tensor]


class TwinTurboOptions(Config):
    """Options of TwinTURBO; weights multiply terms in nats."""

    posterior: PosteriorName = "categorical"
    """Family of q(y|x): `categorical` (softmax), `binary` (C sigmoids), `infonce` (batch-normalised)."""
    prior: Prior | Literal["learned"] = "uniform"
    """p(y): `uniform`, `labels` (frequencies of the labelled samples), `learned`, or one number per class."""
    prior_pull: float = pydantic.Field(default=0.1, gt=0, le=1)
    """Share of the uniform prior in a learned one."""
    w_marg: float = pydantic.Field(default=0.0, ge=0)
    """Weight of -CE_marg; above w_y it pushes q(y) away from p(y)."""
    w_y: float = pydantic.Field(default=1.0, ge=0)
    """Weight of KL_y in closed form."""
    w_critic: float = pydantic.Field(default=0.0, ge=0)
    """Weight of KL_c; above zero, its critic exists and is trained."""
    w_ent: float = pydantic.Field(default=1.0, ge=0)
    """Weight of the conditional entropy on unlabelled samples."""
    w_z: float = pydantic.Field(default=0.1, ge=0)
    """Weight of align + uniform."""
    w_kz: float = pydantic.Field(default=0.0, ge=0)
    """Weight of KL_z; above zero, its critic exists and is trained."""
    tau: float = pydantic.Field(default=0.1, gt=0)
    """Temperature of the latent bound."""
    ramp: float = pydantic.Field(default=0.25, ge=0, le=1)
    """Share of training over which the weights of all terms except CE_cond rise from zero."""
    marginal_decay: float = pydantic.Field(default=0.9, ge=0, lt=1)
    """Decay of the moving average of q(y) over batches; 0 uses the current batch only."""
    critic_hidden: int = pydantic.Field(default=256, ge=1, le=100_000)
    """Width of the critics' two hidden layers."""
    critic_penalty: float = pydantic.Field(default=1.0, ge=0)
    """Weight of the critics' squared slope in their own loss."""
    critic_spectral: bool = False
    """Normalise the critics spectrally."""


class TwinTurbo(Objective[TwinTurboOptions]):
    """Cosine head, linear map h, moving marginal and critics; reads weak views if the cache has them."""

    Options = TwinTurboOptions
    log_marginal: Tensor
    """(S, C): log q(y), averaged over the batches so far; see `Posterior.log_marginal`."""
    prior: Tensor
    """(C,): p(y), given or learned so far."""
    label_prior: Tensor
    """(C,): the label frequencies, one added to each count, for EM; not stored in the checkpoint."""
    batches: Tensor
    """A scalar: the number of batches in both averages."""

    def __init__(self, options: TwinTurboOptions, task: Task) -> None:
        """Raise TrainError if the prior does not fit the classes."""
        super().__init__(options, task)
        generator = torch.Generator().manual_seed(task.seed)
        self.posterior = POSTERIORS[options.posterior]
        # Each sigmoid starts near 0, as most classes are wrong (SigLIP, arXiv 2303.15343, section 3.2).
        self.head = CosineHead(
            task.class_init, task.center, bias=-SCALE if options.posterior == "binary" else None
        )
        self.h = isometry(task.dim, task.pooled_dim, generator)
        self.critic_c = self._critic(task.num_classes, generator) if options.w_critic > 0 else None
        self.critic_z = self._critic(task.pooled_dim, generator) if options.w_kz > 0 else None
        start = "uniform" if options.prior == "learned" else options.prior
        self.register_buffer("prior", class_prior(start, task))
        counts = (task.label_counts + 1).float().cpu()
        self.register_buffer("label_prior", counts / counts.sum(), persistent=False)
        state_weights = self.posterior.state_weights(self.prior)
        self.register_buffer("log_marginal", torch.zeros_like(state_weights))
        self.register_buffer("batches", torch.zeros(()))

    def views(self, available: Sequence[str]) -> Views:
        """Ask for two different weak views of an unlabelled sample, one for z and one for z*."""
        family = nearest_view(available, "weak")
        unlabelled = (family,) * (2 if family == "weak" else 1)
        return Views(labelled=(family,), unlabelled=unlabelled if self.task.num_unlabelled else ())

    def critic_parameters(self) -> list[torch.nn.Parameter]:
        critics = [critic for critic in (self.critic_c, self.critic_z) if critic is not None]
        return [parameter for critic in critics for parameter in critic.parameters()]

    def forward(
        self, project: Project, batch: Batch, progress: float, generator: torch.Generator
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Return the loss, and by name every term and both bounds; `task_bound` has the closed KL_y."""
        z = project(batch.labelled[0])
        unlabelled, unlabelled_z = _unlabelled(batch, z, project)
        with torch.autocast(z.device.type, enabled=False):
            dtype = self.head.weight.dtype
            logits, unlabelled_logits = self.logits(z), self.logits(unlabelled_z)
            terms = self._task_terms(logits, batch.label, unlabelled_logits, generator)
            terms |= self._latent_terms(unlabelled_z.to(dtype), unlabelled[-1].pooled.to(dtype))
            loss = total_loss(terms, self.options, progress)
        return loss, {name: value.detach() for name, value in terms.items()}

    def logits(self, z: Tensor) -> Tensor:
        """Return scaled cosines, (B, C), of z (B, d).

        Their softmax is q(y|x); for sigmoids it is q given that one class is true.
        """
        return cast(Tensor, self.head(z))

    def _task_terms(
        self, logits: Tensor, label: Tensor, unlabelled_logits: Tensor, generator: torch.Generator
    ) -> Terms:
        """Return the terms of the task bound, from (B, C) and (mu B, C) logits."""
        prior, log_marginal = self._move_averages(unlabelled_logits)
        state_weights = self.posterior.state_weights(prior)
        ce_cond = -self.posterior.log_likelihood(logits, label).mean()
        ce_marg = marginal_cross_entropy(state_weights, log_marginal)
        kl_y = marginal_kl(prior, state_weights, log_marginal)
        terms = {
            "ce_cond": ce_cond,
            "ce_marg": ce_marg,
            "kl_y": kl_y,
            "ent": self.posterior.entropy(unlabelled_logits).mean(),
            "task_bound": -ce_cond + ce_marg - kl_y,
        }
        if self.critic_c is not None:
            predicted = self.posterior.probabilities(unlabelled_logits)
            labels = sample_one_hot(prior, predicted, generator)
            terms |= adversarial("c", self.critic_c, labels, predicted, self.options.critic_penalty)
        return terms

    def _latent_terms(self, z: Tensor, frozen: Tensor) -> Terms:
        """Return the terms of the latent bound, from z (mu B, d) and z* (mu B, P)."""
        mapped, tau = self.h(z), self.options.tau
        terms = {"align": align(mapped, frozen, tau), "uniform": uniform(mapped, frozen, tau)}
        terms["latent_bound"] = -(terms["align"] + terms["uniform"])
        if self.critic_z is not None:
            # On the sphere, as cosines ignore length, and with coordinates of unit variance.
            radius = frozen.shape[1] ** 0.5
            real, fake = radius * unit(frozen), radius * unit(mapped)
            terms |= adversarial("z", self.critic_z, real, fake, self.options.critic_penalty)
            terms["latent_bound"] = terms["latent_bound"] - terms["kl_z"]
        return terms

    def _move_averages(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Move p(y) and q(y) by one unlabelled batch; return p(y), and log q(y) with its gradient.

        Both are the plain mean over the first batches, then a moving average.
        """
        keep = (self.batches / (self.batches + 1)).clamp(max=self.options.marginal_decay)
        log_marginal = moving_log_mean(self.posterior.log_marginal(logits), self.log_marginal, keep)
        if self.training:
            if self.options.prior == "learned":
                now = em_prior(logits.detach(), self.prior, self.label_prior, self.options.prior_pull)
                self.prior.copy_(now.lerp(self.prior, keep))
            self.log_marginal.copy_(log_marginal.detach())
            self.batches += 1
        return self.prior, log_marginal

    def _critic(self, dim: int, generator: torch.Generator) -> Critic:
        """Build a critic of vectors of width `dim`, as the options describe it."""
        return Critic(dim, generator, self.options.critic_hidden, spectral=self.options.critic_spectral)


def total_loss(terms: Terms, options: TwinTurboOptions, progress: float) -> Tensor:
    """Return the weighted sum of the module's docstring, plus the critics' own losses, a scalar."""
    o = options
    unlabelled = o.w_y * terms["kl_y"] - o.w_marg * terms["ce_marg"] + o.w_ent * terms["ent"]
    unlabelled = unlabelled + o.w_z * (terms["align"] + terms["uniform"])
    if "kl_c" in terms:
        unlabelled = unlabelled + o.w_critic * terms["kl_c"]
    if "kl_z" in terms:
        unlabelled = unlabelled + o.w_kz * terms["kl_z"]
    critics = [terms[name] for name in ("critic_c", "critic_z") if name in terms]
    ramped = ramp(progress, o.ramp) * unlabelled
    return terms["ce_cond"] + ramped + sum(critics, start=torch.zeros_like(unlabelled))


def _unlabelled(batch: Batch, z: Tensor, project: Project) -> tuple[tuple[Features, ...], Tensor]:
    """Return the unlabelled views and z of the first, else the labelled ones."""
    if batch.has_unlabelled:
        return batch.unlabelled, project(batch.unlabelled[0])
    return batch.labelled, z


objective = TwinTurbo
