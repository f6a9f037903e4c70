"""Content-style decomposition: z is split in two parts that together tell z* (arXiv 2410.02069).

    c = q(y|x) = softmax_y(scale cos(z, w_y)),    s = W_s t(z),    t = sqrt(d) (x - m) / |x - m| of x / |x|

    loss = CE_cond + r [ w_content KL(c || p(y)) + w_style KL(s || N(0, I)) + w_rec rec ]

- CE_cond = -E_L log q(y|x): the content of labelled samples is their class;
- KL(c || p(y)) by a critic that tells the vectors q(y|x) from one-hot labels drawn from p(y);
- KL(s || N(0, I)) by a critic that tells styles from standard normal vectors;
- rec = E |t(z*) - A c - b - B s|^2 / (2 d): the frozen latent told from both parts, in nats per coordinate
  under a Gaussian of unit variance, up to its constant;
- m is the mean of z / |z| before training, so t has coordinates of unit variance in the mean over them;
- r rises from 0 to 1 over the first part of training. Every term but CE_cond is over all samples of the
  batch, labelled and unlabelled.

The paper names the terms (cross-entropy, adversarial KL on each part, reconstruction of the frozen latent)
and has no public code that we know of. Our readings, from semi-supervised adversarial autoencoders (Makhzani
et al., arXiv 1511.05644, section 5) and the code of an earlier paper of its last author (Voloshynovskiy et
al., Entropy 22(9):943, 2020; taranO/IB-semi-supervised-classification):

- content is the vector of class probabilities, so the head is the map to it, and style is a linear map, both
  of the same z; there too the critics see one-hot labels and standard normal vectors, and weights are 1;
- the decoder is linear, as a stronger one could do without the content;
- the critics' loss has a penalty on their slope, as TwinTURBO's has (Mescheder et al., arXiv 1801.04406);
- weights, ramp and width of the style, and that W_s starts semi-orthogonal, B as its transpose, A and b as
  zeros: training starts from the frozen representation and, for a style as wide as z, from rec = 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import pydantic
import torch
from torch import Tensor
from torch.nn import functional as F

from featcache.batch import Batch, Views
from featcache.config import Config
from featcache.nn.critics import Critic
from featcache.nn.heads import CosineHead
from featcache.nn.init import isometry, on_sphere, zero_linear
from featcache.objectives._adversarial import Prior, adversarial, class_prior, sample_one_hot
from featcache.objectives.base import Objective, Project, Task

Terms = dict[str, Tensor]


class ContentStyleOptions(Config):
    """Options of the content-style decomposition; weights multiply terms in nats."""

    style_dim: int = pydantic.Field(default=64, ge=1)
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
    """Share of training over which the weights of all terms but CE_cond rise from zero."""
    critic_hidden: int = pydantic.Field(default=256, ge=1)
    """Width of the critics' two hidden layers."""
    critic_penalty: float = pydantic.Field(default=1.0, ge=0)
    """Weight of the critics' squared slope in their own loss."""


class ContentStyle(Objective[ContentStyleOptions]):
    """Cosine head for the content, linear map for the style, linear decoder, and a critic for each part.

    Reads weak views where there are some. Without unlabelled rows, the labelled ones are all samples.
    """

    Options = ContentStyleOptions
    prior: Tensor

    def __init__(self, options: ContentStyleOptions, task: Task) -> None:
        """Raises TrainError for a prior that does not fit the classes."""
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
        family = "weak" if "weak" in available else "eval"
        return Views(labelled=(family,), unlabelled=(family,) if self.task.num_unlabelled else ())

    def critic_parameters(self) -> list[torch.nn.Parameter]:
        return list(self.critics.parameters())

    def forward(
        self, project: Project, batch: Batch, progress: float, generator: torch.Generator
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The loss and every term by name; `kl_*` and `critic_*` only where the critic exists."""
        rows = [batch.labelled[0], *(view for view in batch.unlabelled[:1] if len(view.pooled))]
        z = torch.cat([project(features) for features in rows])
        with torch.autocast(z.device.type, enabled=False):
            dtype = self.head.weight.dtype
            frozen = torch.cat([features.pooled.to(dtype) for features in rows])
            terms = self._terms(z.to(dtype), frozen, batch.label, generator)
            loss = self._loss(terms, progress)
        return loss, {name: value.detach() for name, value in terms.items()}

    def logits(self, z: Tensor) -> Tensor:
        """(B, d) to (B, C): scaled cosines, whose softmax is the content."""
        return cast(Tensor, self.head(z))

    def _terms(self, z: Tensor, frozen: Tensor, label: Tensor, generator: torch.Generator) -> Terms:
        """From (B, d) latents, the first of them labelled, and as many z*."""
        logits, center = self.logits(z), self.head.center
        parts = {"content": logits.softmax(dim=1), "style": self.style(on_sphere(z, center))}
        decoded = self.from_content(parts["content"]) + self.from_style(parts["style"])
        terms = {
            "ce_cond": F.cross_entropy(logits[: len(label)], label),
            "rec": reconstruction(on_sphere(frozen, center), decoded),
        }
        for name, critic in self.critics.items():
            assert isinstance(critic, Critic)
            drawn = self._draw(name, parts[name], generator)
            terms |= adversarial(name, critic, drawn, parts[name], self.options.critic_penalty)
        return terms

    def _draw(self, name: str, like: Tensor, generator: torch.Generator) -> Tensor:
        """What a part should look like: as many one-hot labels from p(y), or standard normal vectors."""
        if name == "style":
            return torch.randn(like.shape, generator=generator, device=generator.device).to(like)
        return sample_one_hot(self.prior, like, generator)

    def _loss(self, terms: Terms, progress: float) -> Tensor:
        o = self.options
        latent = o.w_rec * terms["rec"]
        for name, weight in (("content", o.w_content), ("style", o.w_style)):
            if name in self.critics:
                latent = latent + weight * terms[f"kl_{name}"]
        ramp = min(1.0, progress / o.ramp) if o.ramp else 1.0
        critics = [terms[f"critic_{name}"] for name in self.critics]
        return terms["ce_cond"] + ramp * latent + sum(critics, start=torch.zeros_like(latent))


def reconstruction(target: Tensor, decoded: Tensor) -> Tensor:
    """E |t - t'|^2 / (2 d), a scalar from two (B, d): -log N(t; t', I) per coordinate without its constant.

    >>> reconstruction(torch.tensor([[2.0, 0.0]]), torch.zeros(1, 2))
    tensor(1.)
    """
    return (target - decoded).square().mean() / 2


objective = ContentStyle
