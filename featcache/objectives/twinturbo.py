"""TwinTURBO: two lower bounds on mutual information, maximised together (arXiv 2503.07851).

    I(X;Y)  >= -CE_cond + CE_marg - KL_y                     the task bound
    I(X;Z*) >= -(align + uniform) - KL_z                     the latent bound

    loss = CE_cond
         + r [ -w_marg CE_marg + w_y KL_y + w_critic KL_c + w_ent ent + w_z (align + uniform) + w_kz KL_z ]

- CE_cond = -E_L log q(y|x) on the labelled batch;
- CE_marg = -E_p(y) log q(y), with q(y) averaged over the unlabelled batch and, moving, over batches;
- KL_y = KL(p(y) || q(y)), in closed form;
- KL_c, the same by a critic (our reading) that tells one-hot labels drawn from p(y) from predicted vectors
  q(y|x), and so asks for confidence as well; docs/results.md shows when not to use it;
- ent = E_U H(q(y|x)), our addition as in information maximisation: on U, q stands for the unknown p(y|x);
- align = -E cos(h(z), z*)/tau and uniform = E log mean_j exp(cos(h(z_i), z*_j)/tau), with h linear;
- KL_z by a critic that tells h(z) from z*;
- r rises from 0 to 1 over the first part of training.

p(y) is given, or learned: one step of EM a batch on q(y|x) (Saerens et al., 2002), moving as q(y) does, with
a pull to uniform. Our reading, as the paper has no prior that is unknown. EM takes q for a posterior under
the label frequencies (one added to each count), which KL_y moves it away from; without the pull a class that
is predicted less would be expected less.

In closed form KL_y - CE_marg = -H(p(y)) is constant, so only w_y - w_marg matters: CE_marg is reported but
has weight 0 unless asked for. Without unlabelled rows the labelled batch stands in for the unlabelled one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, cast

import pydantic
import torch
from torch import Tensor

from featcache.batch import Batch, Features, Views
from featcache.config import Config
from featcache.nn.critics import Critic
from featcache.nn.heads import SCALE, CosineHead
from featcache.nn.init import isometry, unit
from featcache.objectives import _bounds as bounds
from featcache.objectives._adversarial import Prior, adversarial, class_prior, draw_labels, em_prior
from featcache.objectives._posteriors import POSTERIORS, PosteriorName
from featcache.objectives.base import Objective, Project, Task

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
    """Weight of -CE_marg; keep it below w_y, or q(y) is driven away from p(y)."""
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
    """Share of training over which the weights of all terms but CE_cond rise from zero."""
    marginal_decay: float = pydantic.Field(default=0.9, ge=0, lt=1)
    """Decay of the moving average of q(y) across batches; 0 uses the current batch alone."""
    critic_hidden: int = pydantic.Field(default=256, ge=1)
    """Width of the critics' two hidden layers."""
    critic_penalty: float = pydantic.Field(default=1.0, ge=0)
    """Weight of the critics' squared slope in their own loss."""
    critic_spectral: bool = False
    """Whether the critics are spectrally normalised."""


class TwinTurbo(Objective[TwinTurboOptions]):
    """Cosine head, linear map h, moving marginal and critics; reads weak views where there are some."""

    Options = TwinTurboOptions
    log_marginal: Tensor
    prior: Tensor
    trained: Tensor
    batches: Tensor

    def __init__(self, options: TwinTurboOptions, task: Task) -> None:
        """Raises TrainError for a prior that does not fit the classes."""
        super().__init__(options, task)
        generator = torch.Generator().manual_seed(task.seed)
        self.posterior = POSTERIORS[options.posterior]
        # A sigmoid per class starts near "no", as nearly all are (SigLIP, arXiv 2303.15343, section 3.2).
        self.head = CosineHead(
            task.class_init, task.center, bias=-SCALE if options.posterior == "binary" else None
        )
        self.h = isometry(task.dim, task.pooled_dim, generator)
        self.critic_c = self._critic(task.num_classes, generator) if options.w_critic > 0 else None
        self.critic_z = self._critic(task.pooled_dim, generator) if options.w_kz > 0 else None
        start = "uniform" if options.prior == "learned" else options.prior
        self.register_buffer("prior", class_prior(start, task))
        trained = (task.label_counts + 1).float().cpu()
        self.register_buffer("trained", trained / trained.sum(), persistent=False)
        states = self.posterior.spread(self.prior)
        self.register_buffer("log_marginal", torch.zeros_like(states))
        self.register_buffer("batches", torch.zeros(()))

    def views(self, available: Sequence[str]) -> Views:
        """Two different weak views of an unlabelled sample give z and z*, where the cache holds them."""
        family = "weak" if "weak" in available else "eval"
        unlabelled = (family,) * (2 if family == "weak" else 1)
        return Views(labelled=(family,), unlabelled=unlabelled if self.task.num_unlabelled else ())

    def critic_parameters(self) -> list[torch.nn.Parameter]:
        critics = [critic for critic in (self.critic_c, self.critic_z) if critic is not None]
        return [parameter for critic in critics for parameter in critic.parameters()]

    def forward(
        self, project: Project, batch: Batch, progress: float, generator: torch.Generator
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The loss and every term by name; also both bounds, `task_bound` always with the closed KL_y."""
        z = project(batch.labelled[0])
        free, free_z = _unlabelled(batch, z, project)
        with torch.autocast(z.device.type, enabled=False):
            dtype = self.head.weight.dtype
            logits, free_logits = self.logits(z), self.logits(free_z)
            terms = self._task_terms(logits, batch.label, free_logits, generator)
            terms |= self._latent_terms(free_z.to(dtype), free[-1].pooled.to(dtype))
            loss = self._loss(terms, progress)
        return loss, {name: value.detach() for name, value in terms.items()}

    def logits(self, z: Tensor) -> Tensor:
        """(B, d) to (B, C): scaled cosines, whose softmax is q(y|x) (for sigmoids: given one true class)."""
        return cast(Tensor, self.head(z))

    def _loss(self, terms: Terms, progress: float) -> Tensor:
        o = self.options
        unlabelled = o.w_y * terms["kl_y"] - o.w_marg * terms["ce_marg"] + o.w_ent * terms["ent"]
        unlabelled = unlabelled + o.w_z * (terms["align"] + terms["uniform"])
        if "kl_c" in terms:
            unlabelled = unlabelled + o.w_critic * terms["kl_c"]
        if "kl_z" in terms:
            unlabelled = unlabelled + o.w_kz * terms["kl_z"]
        ramp = min(1.0, progress / o.ramp) if o.ramp else 1.0
        critics = [terms[name] for name in ("critic_c", "critic_z") if name in terms]
        return terms["ce_cond"] + ramp * unlabelled + sum(critics, start=torch.zeros_like(unlabelled))

    def _task_terms(
        self, logits: Tensor, label: Tensor, free_logits: Tensor, generator: torch.Generator
    ) -> Terms:
        self._learn_prior(free_logits.detach())
        log_marginal = self._moving(self.posterior.log_marginal(free_logits))
        weights = self.posterior.spread(self.prior)
        ce_cond = -self.posterior.log_likelihood(logits, label).mean()
        ce_marg = bounds.marginal_cross_entropy(weights, log_marginal)
        kl_y = bounds.marginal_kl(self.prior, weights, log_marginal)
        terms = {
            "ce_cond": ce_cond,
            "ce_marg": ce_marg,
            "kl_y": kl_y,
            "ent": self.posterior.entropy(free_logits).mean(),
            "task_bound": -ce_cond + ce_marg - kl_y,
        }
        if self.critic_c is not None:
            predicted = self.posterior.probabilities(free_logits)
            labels = draw_labels(self.prior, predicted, generator)
            terms |= adversarial("c", self.critic_c, labels, predicted, self.options.critic_penalty)
        return terms

    def _latent_terms(self, z: Tensor, frozen: Tensor) -> Terms:
        mapped = self.h(z)
        align = bounds.align(mapped, frozen, self.options.tau)
        uniform = bounds.uniform(mapped, frozen, self.options.tau)
        terms = {"align": align, "uniform": uniform, "latent_bound": -(align + uniform)}
        if self.critic_z is not None:
            # Both on the sphere, where the cosine model lives, with coordinates of unit variance.
            radius = frozen.shape[1] ** 0.5
            real, fake = radius * unit(frozen), radius * unit(mapped)
            terms |= adversarial("z", self.critic_z, real, fake, self.options.critic_penalty)
            terms["latent_bound"] = terms["latent_bound"] - terms["kl_z"]
        return terms

    def _moving(self, now: Tensor) -> Tensor:
        """log q(y) over this batch and those before: their plain mean at first, then a moving average."""
        log_marginal = bounds.moving_log_mean(now, self.log_marginal, self._keep())
        if self.training:
            self.log_marginal.copy_(log_marginal.detach())
            self.batches += 1
        return log_marginal

    def _keep(self) -> Tensor:
        """What a moving average keeps of the batches before."""
        return (self.batches / (self.batches + 1)).clamp(max=self.options.marginal_decay)

    def _learn_prior(self, free_logits: Tensor) -> None:
        if self.training and self.options.prior == "learned":
            now = em_prior(free_logits, self.prior, self.trained, self.options.prior_pull)
            self.prior.copy_(now.lerp(self.prior, self._keep()))

    def _critic(self, dim: int, generator: torch.Generator) -> Critic:
        return Critic(dim, generator, self.options.critic_hidden, spectral=self.options.critic_spectral)


def _unlabelled(batch: Batch, z: Tensor, project: Project) -> tuple[tuple[Features, ...], Tensor]:
    """The unlabelled views and z of the first; the labelled ones where there are no unlabelled rows."""
    if not batch.unlabelled or len(batch.unlabelled[0].pooled) == 0:
        return batch.labelled, z
    return batch.unlabelled, project(batch.unlabelled[0])


objective = TwinTurbo
