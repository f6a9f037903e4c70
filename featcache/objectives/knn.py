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

import pydantic
import torch
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
        known = data.pooled.double().cpu()
        center = unit(known).mean(dim=0)
        there, label = centred(known, center), data.label.cpu()
        k, every = min(self.options.k, len(there)), torch.arange(data.num_classes)

        def predict(pooled: Tensor) -> Tensor:
            cosine = centred(pooled.double().cpu(), center) @ there.T
            nearest = cosine.topk(k, dim=1)
            # A softmax of cosines is the weighted vote, and does not underflow at a low temperature.
            vote = (nearest.values / self.options.temperature).softmax(dim=1)
            none = vote.new_zeros(vote.shape[0], data.num_classes)
            probability = none.scatter_add(1, label[nearest.indices], vote)
            return log_probabilities(probability, every, data.num_classes).to(pooled.device)

        return predict


objective = Knn
