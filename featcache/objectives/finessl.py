"""FineSSL: pseudo-labels with class margins, weighted by a second head's confidence (arXiv 2405.11756).

    loss = CE_d(main, L) + CE(aux, L) + w_con E_U[w CE_d(main, y')] + E_U[CE_eps(aux, y') | conf >= th]

- main and aux are cosine heads with the same initial values. aux gets stop_gradient(z), so it has no
  influence on the projector;
- y' and conf are the class and probability that main predicts for the weak view of a sample. The last two
  terms are computed on its two strong views;
- CE_d is balanced margin softmax: delta_y = alpha (max s - min s) (1 - s_y) / (1 + s_y), in nats, is added to
  every logit other than y, after the scale of the cosine;
- s_c, the learning status, is the number of unlabelled samples whose latest confident (conf >= th) y' is c,
  over the largest such number. It is reset with each pass over the unlabelled samples;
- CE_eps is decoupled label smoothing: 1 - eps on the label and eps/(C - 1) on each other class;
- w is the probability of the class that aux predicts for the weak view, or zero if that is below th_min.

The main head makes the predictions. Equations and defaults are those of the reference code
(Gank0078/FineSSL). There and here, a batch counts for s only after its loss. Our readings:

- the heads start from a regression on labels and class names, as in all objectives; the reference uses names;
- the reference resets s every 500 steps of 32 samples, for every size of data set;
- if no strong views are cached, another weak view replaces them, or else the only cached view;
- each option describes what replaces the part that it switches off;
- with two classes, the default eps gives both the same target. Then aux learns its classes from labels only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

import pydantic
import torch
from torch import Tensor
from torch.nn import functional as F

from featcache.batch import Batch, Views, nearest_view
from featcache.config import Config
from featcache.errors import TrainError, option
from featcache.nn.heads import CosineHead
from featcache.objectives._margins import (
    class_margins,
    learning_status,
    margin_cross_entropy,
    smoothed_cross_entropy,
)
from featcache.objectives.base import Objective, Project, Task

Terms = dict[str, Tensor]


class FineSSLOptions(Config):
    """Options of FineSSL; weights multiply terms in nats."""

    margin: bool = True
    """Give main class margins; without, its cross-entropies are plain."""
    smoothing: bool = True
    """Train aux on smoothed pseudo-labels; without, on hard ones."""
    reweight: bool = True
    """Weight pseudo-labels by confidence; without, w is 1 where conf >= th, else 0 (as in FixMatch)."""
    aux: bool = True
    """Train an auxiliary head; without, w is main's own confidence, and nothing is smoothed."""
    alpha: float = pydantic.Field(default=8.0, gt=0)
    """Largest margin, in nats."""
    eps: float = pydantic.Field(default=0.5, gt=0, lt=1)
    """Share of a smoothed pseudo-label that the other classes get."""
    th: float = pydantic.Field(default=0.7, ge=0, le=1)
    """Probability from which a prediction of main counts as confident."""
    th_min: float = pydantic.Field(default=0.0, ge=0, le=1)
    """Confidence below which w is zero."""
    w_con: float = pydantic.Field(default=3.0, ge=0)
    """Weight of main's loss on pseudo-labels."""


class PseudoLabels(NamedTuple):
    """Predictions on the weak views of an unlabelled batch, without gradients."""

    label: Tensor
    """(U,) int64."""
    confident: Tensor
    """(U,) bool."""
    weight: Tensor
    """(U,) in [0, 1]: w."""


class FineSSL(Objective[FineSSLOptions]):
    """Two cosine heads and the latest confident class of every unlabelled sample."""

    Options = FineSSLOptions
    status: Tensor
    """(N,) int64: the latest confident class of each unlabelled sample in this pass, or -1."""
    seen: Tensor
    """A scalar, int64: the number of unlabelled samples in this pass so far."""

    def __init__(self, options: FineSSLOptions, task: Task) -> None:
        """Raise TrainError if `eps` puts more on each other class than on the label."""
        super().__init__(options, task)
        if options.smoothing and options.eps > 1 - 1 / max(2, task.num_classes):
            raise TrainError(
                f"{option('objective.eps')} is too large for {task.num_classes} classes",
                got=options.eps,
                expected=f"at most 1 - 1/classes = {1 - 1 / max(2, task.num_classes):.3g}",
                hint=f"pass {option('objective.eps', 0.5)}",
            )
        self.main = CosineHead(task.class_init, task.center)
        self.aux = CosineHead(task.class_init, task.center) if options.aux else None
        self.register_buffer("status", torch.full((task.num_unlabelled,), -1))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def views(self, available: Sequence[str]) -> Views:
        """Ask for one weak and two strong views of an unlabelled sample, or the nearest cached views."""
        weak, strong = nearest_view(available, "weak"), nearest_view(available, "strong", "weak")
        others = {"strong": ("strong", "strong"), "weak": ("weak",), "eval": ()}[strong]
        return Views(labelled=(weak,), unlabelled=(weak, *others) if self.task.num_unlabelled else ())

    def forward(
        self, project: Project, batch: Batch, progress: float, generator: torch.Generator
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Return the loss and its terms.

        Also reported: the largest `margin`, the mean w (`util_ratio`), and the share of `confident` samples.
        """
        margins = self._margins()
        terms = self._labelled_terms(project(batch.labelled[0]), batch.label, margins)
        if batch.has_unlabelled:
            strong = [project(view) for view in batch.unlabelled[1:] or batch.unlabelled]
            with torch.no_grad():
                weak = project(batch.unlabelled[0]) if len(batch.unlabelled) > 1 else strong[0]
                pseudo = self._pseudo(weak)
            terms |= self._unlabelled_terms(strong, pseudo, margins)
            self._remember(batch.unlabelled_index, pseudo)
        term_weights = {"ce_cond": 1.0, "ce_aux": 1.0, "ce_pseudo": self.options.w_con, "ce_smooth": 1.0}
        weighted = [weight * terms[name] for name, weight in term_weights.items() if name in terms]
        loss = torch.stack(weighted).sum()
        return loss, {name: value.detach() for name, value in terms.items()}

    def logits(self, z: Tensor) -> Tensor:
        """Return scaled cosines of the main head, (B, C), of z (B, d)."""
        return cast(Tensor, self.main(z))

    def _margins(self) -> Tensor:
        """Return the (C,) margins of this step, from earlier samples; reset the memory after each pass."""
        if self.training:
            passed = self.seen >= self.task.num_unlabelled
            self.status.masked_fill_(passed, -1)
            self.seen.masked_fill_(passed, 0)
        learned = learning_status(self.status, self.task.num_classes)
        return class_margins(learned, self.options.alpha if self.options.margin else 0.0)

    def _labelled_terms(self, z: Tensor, label: Tensor, margins: Tensor) -> Terms:
        """Return the terms of the labelled batch, from z (B, d)."""
        terms = {
            "ce_cond": margin_cross_entropy(self.main(z), label, margins).mean(),
            "margin": margins.max(),
        }
        if self.aux is not None:
            terms["ce_aux"] = F.cross_entropy(self.aux(z.detach()), label)
        return terms

    def _pseudo(self, z: Tensor) -> PseudoLabels:
        """Return the pseudo-labels of an unlabelled batch, from z (U, d) of the weak views."""
        confidence, label = self.main(z).softmax(dim=1).max(dim=1)
        confident = confidence >= self.options.th
        if not self.options.reweight:
            return PseudoLabels(label, confident, confident.to(confidence))
        weight = confidence if self.aux is None else self.aux(z).softmax(dim=1).amax(dim=1)
        return PseudoLabels(label, confident, weight * (weight >= self.options.th_min))

    def _unlabelled_terms(self, views: Sequence[Tensor], pseudo: PseudoLabels, margins: Tensor) -> Terms:
        """Return the terms of an unlabelled batch, from z (U, d) of its strong views."""
        losses = [margin_cross_entropy(self.main(z), pseudo.label, margins) for z in views]
        terms = {
            "ce_pseudo": (pseudo.weight * torch.stack(losses)).mean(),
            "util_ratio": pseudo.weight.mean(),
            "confident": pseudo.confident.to(pseudo.weight).mean(),
        }
        if self.aux is not None:
            eps = self.options.eps if self.options.smoothing else 0.0
            losses = [smoothed_cross_entropy(self.aux(z.detach()), pseudo.label, eps) for z in views]
            chosen = torch.stack(losses).mean(dim=0) * pseudo.confident
            terms["ce_smooth"] = chosen.sum() / pseudo.confident.sum().clamp(min=1)
        return terms

    def _remember(self, index: Tensor, pseudo: PseudoLabels) -> None:
        """Store the confident classes of a batch, in training mode."""
        if self.training:
            self.status[index] = torch.where(pseudo.confident, pseudo.label, self.status[index])
            self.seen += len(index)


objective = FineSSL
