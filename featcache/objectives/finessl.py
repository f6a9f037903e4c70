"""FineSSL: pseudo-labels with class margins, weighted by a second head's confidence (arXiv 2405.11756).

    loss = CE_d(main, L) + CE(aux, L) + w_con E_U[w CE_d(main, y')] + E_U[CE_eps(aux, y') | conf >= th]

- main and aux are cosine heads that start alike; aux sees stop_gradient(z), so it never moves the projector;
- y' and conf are the class and probability that main predicts for the weak view of a sample; its two strong
  views are what the last two terms are taken on;
- CE_d is balanced margin softmax: delta_y = alpha (max s - min s) (1 - s_y) / (1 + s_y), in nats, is added to
  every logit other than y, after the scale of the cosine;
- s_c, the learning status, is the number of unlabelled samples whose latest confident (conf >= th) y' is c,
  over the largest such number; it starts anew with each pass over the unlabelled samples;
- CE_eps is decoupled label smoothing: 1 - eps on the label and eps/(C - 1) on each other class;
- w is the probability of the class that aux predicts for the weak view, or zero if that is below th_min.

Predictions are main's. Equations and defaults are those of the reference code (Gank0078/FineSSL), where a
batch counts for s only after its loss, as here. Our readings:

- the heads start at a regression of labels and class names, as all do here; the reference has names alone;
- the reference starts s anew every 500 steps of 32 samples, whatever the size of the data set;
- where no strong views are cached, another weak view takes their place, or else the only view there is;
- what stands in for a part that is switched off is said at its option;
- with two classes the default eps gives both the same target: aux then learns its classes from labels alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

import pydantic
import torch
from torch import Tensor
from torch.nn import functional as F

from featcache.batch import Batch, Views
from featcache.config import Config
from featcache.errors import TrainError
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
    """Whether main has class margins; without, its cross-entropies are plain."""
    smoothing: bool = True
    """Whether aux learns from smoothed pseudo-labels; without, from hard ones."""
    reweight: bool = True
    """Whether confidence weighs pseudo-labels; without, w is 1 where conf >= th, else 0 (as in FixMatch)."""
    aux: bool = True
    """Whether there is an auxiliary head; without, main's own confidence weighs and nothing is smoothed."""
    alpha: float = pydantic.Field(default=8.0, gt=0)
    """Largest margin, in nats."""
    eps: float = pydantic.Field(default=0.5, gt=0, lt=1)
    """Share of a smoothed pseudo-label that is spread over the other classes."""
    th: float = pydantic.Field(default=0.7, ge=0, le=1)
    """Probability from which a prediction of main is confident."""
    th_min: float = pydantic.Field(default=0.0, ge=0, le=1)
    """Confidence below which w is zero."""
    w_con: float = pydantic.Field(default=3.0, ge=0)
    """Weight of main's loss on pseudo-labels."""


class Pseudo(NamedTuple):
    """What the weak views of an unlabelled batch say, without gradients."""

    label: Tensor
    """(U,) int64."""
    confident: Tensor
    """(U,) bool."""
    weight: Tensor
    """(U,) in [0, 1]."""


class FineSSL(Objective[FineSSLOptions]):
    """Two cosine heads and the latest confident class of every unlabelled sample."""

    Options = FineSSLOptions
    status: Tensor
    seen: Tensor

    def __init__(self, options: FineSSLOptions, task: Task) -> None:
        """Raises TrainError for a smoothing that puts more on each other class than on the label."""
        super().__init__(options, task)
        if options.smoothing and options.eps > 1 - 1 / max(2, task.num_classes):
            raise TrainError(
                "the smoothed pseudo-labels would speak against their label",
                got=f"eps = {options.eps} with {task.num_classes} classes",
                expected="at most 1 - 1/classes",
                hint="--set objective.eps=0.5",
            )
        self.main = CosineHead(task.class_init, task.center)
        self.aux = CosineHead(task.class_init, task.center) if options.aux else None
        self.register_buffer("status", torch.full((task.num_unlabelled,), -1))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def views(self, available: Sequence[str]) -> Views:
        """One weak and two strong views of an unlabelled sample, or the nearest to it that is cached."""
        weak = "weak" if "weak" in available else "eval"
        others = ("strong", "strong") if "strong" in available else ("weak",) if weak == "weak" else ()
        return Views(labelled=(weak,), unlabelled=(weak, *others) if self.task.num_unlabelled else ())

    def forward(
        self, project: Project, batch: Batch, progress: float, generator: torch.Generator
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The loss and its terms; also the largest `margin`, the mean w, the share of confident samples."""
        margins = self._margins()
        terms = self._labelled_terms(project(batch.labelled[0]), batch.label, margins)
        if batch.unlabelled and len(batch.unlabelled[0].pooled):
            strong = [project(view) for view in batch.unlabelled[1:] or batch.unlabelled]
            with torch.no_grad():
                weak = project(batch.unlabelled[0]) if len(batch.unlabelled) > 1 else strong[0]
                pseudo = self._pseudo(weak)
            terms |= self._unlabelled_terms(strong, pseudo, margins)
            self._remember(batch.unlabelled_index, pseudo)
        weights = {"ce_cond": 1.0, "ce_aux": 1.0, "ce_pseudo": self.options.w_con, "ce_smooth": 1.0}
        loss = torch.stack([weight * terms[name] for name, weight in weights.items() if name in terms]).sum()
        return loss, {name: value.detach() for name, value in terms.items()}

    def logits(self, z: Tensor) -> Tensor:
        """(B, d) to (B, C): scaled cosines of the main head."""
        return cast(Tensor, self.main(z))

    def _margins(self) -> Tensor:
        """(C,) margins of this step, from the samples before it."""
        if self.training:
            passed = self.seen >= self.task.num_unlabelled
            self.status.masked_fill_(passed, -1)
            self.seen.masked_fill_(passed, 0)
        learned = learning_status(self.status, self.task.num_classes)
        return class_margins(learned, self.options.alpha if self.options.margin else 0.0)

    def _labelled_terms(self, z: Tensor, label: Tensor, margins: Tensor) -> Terms:
        terms = {
            "ce_cond": margin_cross_entropy(self.main(z), label, margins).mean(),
            "margin": margins.max(),
        }
        if self.aux is not None:
            terms["ce_aux"] = F.cross_entropy(self.aux(z.detach()), label)
        return terms

    def _pseudo(self, z: Tensor) -> Pseudo:
        confidence, label = self.main(z).softmax(dim=1).max(dim=1)
        confident = confidence >= self.options.th
        if not self.options.reweight:
            return Pseudo(label, confident, confident.to(confidence))
        judged = confidence if self.aux is None else self.aux(z).softmax(dim=1).amax(dim=1)
        return Pseudo(label, confident, judged * (judged >= self.options.th_min))

    def _unlabelled_terms(self, views: Sequence[Tensor], pseudo: Pseudo, margins: Tensor) -> Terms:
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

    def _remember(self, index: Tensor, pseudo: Pseudo) -> None:
        if self.training:
            self.status[index] = torch.where(pseudo.confident, pseudo.label, self.status[index])
            self.seen += len(index)


objective = FineSSL
