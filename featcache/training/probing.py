"""What probes make of a representation before and after training: what was gained, and what was forgotten."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from featcache.loading.replay import ReplayCache
from featcache.nn.projector import Projector
from featcache.objectives.base import ProbeData
from featcache.objectives.knn import Knn, KnnOptions
from featcache.objectives.linear import Linear, LinearOptions
from featcache.training.predictor import Labelled, map_rows, pooled


@dataclass(frozen=True)
class Prober:
    """Accuracy of k nearest neighbours and of a linear probe, on z* (before) and on z (after), by name."""

    projector: Projector
    seed: int
    device: torch.device

    def target(self, fit: Labelled, test: Labelled, num_classes: int) -> dict[str, float]:
        """`target_knn_before`, `target_linear_before`, `target_knn_after`, `target_linear_after`, 0 to 1."""
        return self._figures("target", Linear(LinearOptions()), fit, test, num_classes)

    def source(self, second: ReplayCache) -> dict[str, float]:
        """The same of the second cache, as `source_...`, with all its labels; empty where it lacks them.

        The linear probe has C = 1: so many labels need no regularisation that is chosen for them.
        """
        if second.test is None or second.test_store is None:
            return {}
        fit = Labelled.of(second.store, second.split)
        test = Labelled.of(second.test_store, second.test)
        if not (len(fit.rows) and len(test.rows)):
            return {}
        return self._figures("source", Linear(LinearOptions(C=1.0)), fit, test, second.num_classes)

    def _figures(
        self, name: str, linear: Linear, fit: Labelled, test: Labelled, num_classes: int
    ) -> dict[str, float]:
        figures = {}
        for when in ("before", "after"):
            known, asked = (self._embedded(part, when == "after") for part in (fit, test))
            data = ProbeData(known, torch.from_numpy(fit.label), num_classes, None)
            for kind, probe in (("knn", Knn(KnnOptions())), ("linear", linear)):
                choice = probe.fit(data, self.seed)(asked).argmax(1).numpy()
                figures[f"{name}_{kind}_{when}"] = float((choice == test.label).mean())
        return figures

    def _embedded(self, part: Labelled, adapted: bool) -> torch.Tensor:
        if adapted:
            return map_rows(self.projector, part.store, part.rows, self.device).float()
        return pooled(part.store, part.rows)
