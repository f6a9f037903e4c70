"""Content-style decomposition: z is split into two parts that together reconstruct z* (arXiv 2410.02069).

    c = q(y|x) = softmax_y(scale cos(z, w_y)),    s = W_s t(z),    t = sqrt(d) (x - m) / |x - m| of x / |x|

    loss = CE_cond + r [ w_content KL(c || p(y)) + w_style KL(s || N(0, I)) + w_rec rec ]

- CE_cond = -E_L log q(y|x): the content of labelled samples is their class;
- KL(c || p(y)) is estimated by a critic that separates the vectors q(y|x) from one-hot labels of p(y);
- KL(s || N(0, I)) is estimated by a critic that separates styles from standard normal vectors;
- rec = E |t(z*) - A c - b - B s|^2 / (2 d) reconstructs the frozen latent from both parts, in nats per
  coordinate under a Gaussian of unit variance, without its constant;
- m is the mean of z / |z| before training, so the mean square of the coordinates of t is one;
- r rises from 0 to 1 over the first part of training. All terms except CE_cond use all samples of the batch,
  labelled and unlabelled.

The paper names the terms (cross-entropy, adversarial KL on each part, reconstruction of the frozen latent).
We know of no public code. Our readings have two sources. One is semi-supervised adversarial autoencoders
(Makhzani et al., arXiv 1511.05644, section 5). The other is the code of an earlier paper of the last author
(Voloshynovskiy et al., Entropy 22(9):943, 2020; taranO/IB-semi-supervised-classification):

- content is the vector of class probabilities, given by the head, and style is a linear map of the same z. In
  both sources too the critics see one-hot labels and standard normal vectors, and the weights are 1;
- the decoder is linear: a stronger one could ignore the content;
- the critics' loss has a penalty on their slope, as TwinTURBO's has (Mescheder et al., arXiv 1801.04406);
- weights, ramp and width of the style are ours. So are the initial values: W_s semi-orthogonal, B its
  transpose, A and b zero. Training starts from the frozen representation, and from rec = 0 if the style is as
  wide as z.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import pydantic
import torch
from torch import Tensor
from torch.nn import functional as F

from featcache.batch import Batch, Views, nearest_view
from featcache.config import Config
from featcache.nn.critics import Critic
from featcache.nn.heads import CosineHead
from featcache.nn.init import isometry, on_sphere, zero_linear
from featcache.objectives._adversarial import Prior, adversarial, class_prior, sample_one_hot
from featcache.objectives.base import Objective, Project, Task, ramp

Terms = dict[str, Tensor]


class ContentStyleOptions(Config):
    """Options of the content-style decomposition; weights multiply terms in nats."""

    style_dim: int = pydantic.Field(default=64, ge=1, le=100_000)
    """Width of the style; at most that of z."""
    prior: Prior = "uniform"
    """p(y): `uniform`, `labels` (frequencies of the labelled samples), or one number per class."""
    w_content: float = pydantic.Field(default=0.1, ge=0)
    """Weight of KL(c || p(y)); above zero, its critic exists and is trained."""
    w_style: float = pydantic.Field(default=0.1, ge=0)
    """Weight of KL(s || N(0, I)); above zero, its critic exists and is trained."""
    w_rec: float = pydantic.Field(default=1.0, ge=0)
    """Weight of the reconstruction."""
    ramp: float = pydantic.Field(default=0.25, ge=0, le=1)
    """Share of training over which the weights of all terms except CE_cond rise from zero."""
    critic_hidden: int = pydantic.Field(default=256, ge=1, le=100_000)
    """Width of the critics' two hidden layers."""
    critic_penalty: float = pydantic.Field(default=1.0, ge=0)
    """Weight of the critics' squared slope in their own loss."""


class ContentStyle(Objective[ContentStyleOptions]):
    """Cosine head for the content, linear map for the style, linear decoder, and a critic for each part.

    Reads weak views if the cache has them. Without unlabelled rows, all terms use the labelled ones.
    """

    Options = ContentStyleOptions
    prior: Tensor
    """(C,): p(y)."""

    def __init__(self, options: ContentStyleOptions, task: Task) -> None:
        """Raise TrainError if the prior does not fit the classes."""
        super().__init__(options, task)
        generator = torch.Generator().manual_seed(task.seed)
        width = min(options.style_dim, task.dim)
        self.head = CosineHead(task.class_init, task.center)
        self.style = isometry(task.dim, width, generator)
        self.from_content = zero_linear(task.num_classes, task.dim)
        self.from_style = isometry(width, task.dim, generator)
        self.from_style.weight.data.copy_(self.style.weight.data.mT)
        sizes = {"content": (task.num_classes, options.w_content), "style": (width, options.w_style)}
        self.critics = torch.nn.ModuleDict(
            {
                name: Critic(size, generator, options.critic_hidden)
                for name, (size, weight) in sizes.items()
                if weight > 0
            }
        )
        self.register_buffer("prior", class_prior(options.prior, task))

    def views(self, available: Sequence[str]) -> Views:
        """Ask for one weak view of each sample, or the plain one."""
        family = nearest_view(available, "weak")
        return Views(labelled=(family,), unlabelled=(family,) if self.task.num_unlabelled else ())

    def critic_parameters(self) -> list[torch.nn.Parameter]:
        return list(self.critics.parameters())

    def forward(
        self, project: Project, batch: Batch, progress: float, generator: torch.Generator
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Return the loss and every term by name; `kl_*` and `critic_*` only if the critic exists."""
        rows = [*batch.labelled[:1], *(batch.unlabelled[:1] if batch.has_unlabelled else ())]
        z = torch.cat([project(features) for features in rows])
        with torch.autocast(z.device.type, enabled=False):
            dtype = self.head.weight.dtype
            frozen = torch.cat([features.pooled.to(dtype) for features in rows])
            terms = self._terms(z.to(dtype), frozen, batch.label, generator)
            loss = self._loss(terms, progress)
        return loss, {name: value.detach() for name, value in terms.items()}

    def logits(self, z: Tensor) -> Tensor:
        """Return scaled cosines, (B, C), of z (B, d); their softmax is the content."""
        return cast(Tensor, self.head(z))

    def _terms(self, z: Tensor, frozen: Tensor, label: Tensor, generator: torch.Generator) -> Terms:
        """Return all terms from z (N, d), whose first rows are labelled, and z* (N, P)."""
        logits, center = self.logits(z), self.head.center
        parts = {"content": logits.softmax(dim=1), "style": self.style(on_sphere(z, center))}
        decoded = self.from_content(parts["content"]) + self.from_style(parts["style"])
        terms = {
            "ce_cond": F.cross_entropy(logits[: len(label)], label),
            "rec": reconstruction(on_sphere(frozen, center), decoded),
        }
        for name, critic in self.critics.items():
            assert isinstance(critic, Critic)
            drawn = self._sample_prior(name, parts[name], generator)
            terms |= adversarial(name, critic, drawn, parts[name], self.options.critic_penalty)
        return terms

    def _sample_prior(self, name: str, like: Tensor, generator: torch.Generator) -> Tensor:
        """Draw samples of a part's prior, of the shape of `like`: one-hot labels or normal vectors."""
        if name == "style":
            return torch.randn(like.shape, generator=generator, device=generator.device).to(like)
        return sample_one_hot(self.prior, like, generator)

    def _loss(self, terms: Terms, progress: float) -> Tensor:
        """Return the weighted sum of the module's docstring, and the critics' own losses."""
        o = self.options
        latent = o.w_rec * terms["rec"]
        for name, weight in (("content", o.w_content), ("style", o.w_style)):
            if name in self.critics:
                latent = latent + weight * terms[f"kl_{name}"]
        critics = [terms[f"critic_{name}"] for name in self.critics]
        return (
            terms["ce_cond"] + ramp(progress, o.ramp) * latent + sum(critics, start=torch.zeros_like(latent))
        )


def reconstruction(target: Tensor, decoded: Tensor) -> Tensor:
    """Return E |t - t'|^2 / (2 d) of two (B, d): -log N(t; t', I) per coordinate without its constant.

    >>> reconstruction(torch.tensor([[2.0, 0.0]]), torch.zeros(1, 2))
    tensor(1.)
    """
    return (target - decoded).square().mean() / 2


objective = ContentStyle
