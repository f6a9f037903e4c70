"""k nearest neighbours by cosine similarity, votes weighted by exp(cos / T).

    q(y|x) = sum_{i in N(x), y_i = y} v_i / sum_{i in N(x)} v_i,    v_i = exp(cos(x, x_i) / T),
    x = z* / |z*| - mean

N(x) are the k labelled samples nearest to x. Probabilities have a floor, so that log q (nats) is finite.
Source: the k-NN evaluation of DINO (arXiv 2104.14294, section 4.2; k = 20, T = 0.07). Our reading: embeddings
are scaled to length one and centred on the labelled mean, as in the linear probe. The cosines of embeddings
far from zero (those after a ReLU) differ too little for the same T.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pydantic
from numpy.typing import NDArray
from torch import Tensor

from featcache.config import Config
from featcache.nn.init import centred, unit
from featcache.objectives._fitting import log_probabilities
from featcache.objectives.base import Probe, ProbeData


class KnnOptions(Config):
    """Options of the nearest-neighbour probe."""

    k: int = pydantic.Field(default=20, ge=1, le=10**9)
    """Number of neighbours that vote; all labelled samples if there are fewer."""
    temperature: float = pydantic.Field(default=0.07, gt=0)
    """T; a lower value gives the nearest neighbour more weight."""


class Knn(Probe[KnnOptions]):
    """A weighted vote of the nearest labelled samples."""

    Options = KnnOptions

    def fit(self, data: ProbeData, seed: int) -> Callable[[Tensor], Tensor]:
        """Store the labelled embeddings; the result searches them exhaustively."""
        from sklearn.neighbors import KNeighborsClassifier

        def weights(distance: NDArray[np.float64]) -> NDArray[np.float64]:
            # Relative to the nearest, so that a low temperature does not underflow every vote.
            gap = distance.min(axis=1, keepdims=True) - distance
            vote: NDArray[np.float64] = np.exp(gap / self.options.temperature)
            return vote

        model = KNeighborsClassifier(
            min(self.options.k, len(data.label)), weights=weights, metric="cosine", algorithm="brute"
        )
        known = data.pooled.double().cpu()
        center = unit(known).mean(dim=0)
        model.fit(centred(known, center).numpy(), data.label.cpu().numpy())

        def predict(pooled: Tensor) -> Tensor:
            votes = model.predict_proba(centred(pooled.double().cpu(), center).numpy())
            return log_probabilities(votes, model.classes_, data.num_classes).to(pooled.device)

        return predict


objective = Knn
