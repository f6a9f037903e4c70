"""Compare a representation before and after training by the accuracy of probes."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from featcache.loading.replay import ReplayCache
from featcache.nn.projector import Projector
from featcache.objectives.base import ProbeData
from featcache.objectives.knn import Knn, KnnOptions
from featcache.objectives.linear import Linear, LinearOptions
from featcache.training.data import Labelled
from featcache.training.outputs import map_rows, pooled


@dataclass(frozen=True)
class Prober:
    """Measure k nearest neighbours and a linear probe on z* (before training) and z (after it)."""

    projector: Projector
    seed: int
    device: torch.device

    def target(self, fit: Labelled, test: Labelled, num_classes: int) -> dict[str, float]:
        """Return `target_knn_before` and `_after`, `target_linear_before` and `_after`, from 0 to 1."""
        return self._figures("target", Linear(LinearOptions()), fit, test, num_classes)

    def replay(self, cache: ReplayCache) -> dict[str, float]:
        """Return the same accuracies on the replay cache, named `replay_...`.

        The probes use all labels of that cache; without labels the result is empty. The linear probe has
        C = 1, because with many labels C need not be chosen.
        """
        if cache.test is None or cache.test_store is None:
            return {}
        fit = Labelled.of(cache.store, cache.split)
        test = Labelled.of(cache.test_store, cache.test)
        if not (len(fit.rows) and len(test.rows)):
            return {}
        return self._figures("replay", Linear(LinearOptions(C=1.0)), fit, test, cache.num_classes)

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
