"""Linear probe: L2-regularised multinomial logistic regression on the frozen pooled embedding.

    min_{W,b}  -sum_L log softmax_y(W x + b) + |W|^2 / (2 C),    x = (z* / |z*| - mean) / deviation    (nats)

Source: the linear probe of CLIP (arXiv 2103.00020, section 3.2 and appendix A.3: L-BFGS, regularisation
swept). The solver is scikit-learn's. Embeddings are scaled to length one, centred on the labelled mean and
divided by one common standard deviation. Per-feature deviations would be noise with few labels per class.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pydantic
import torch
from numpy.typing import NDArray
from torch import Tensor

from featcache.config import Config
from featcache.nn.init import unit
from featcache.objectives._fitting import log_probabilities, logistic
from featcache.objectives.base import Probe, ProbeData


class LinearOptions(Config):
    """Options of the linear probe."""

    C: float | None = pydantic.Field(default=None, gt=0)
    """Inverse regularisation strength. By default it is chosen by stratified cross-validation of the labelled
    log-likelihood; it is 1.0 if a labelled class has only one sample."""
    folds: int = pydantic.Field(default=3, ge=2, le=1000)
    """Folds of that cross-validation; at most the size of the smallest class."""
    max_iter: int = pydantic.Field(default=1000, ge=1, le=10**9)
    """Most iterations of the solver."""


class LinearMap(NamedTuple):
    """Logits unit(pooled) weight^T + bias of the k classes that have labels, in float64."""

    classes: Tensor
    """(k,) int64, sorted."""
    weight: Tensor
    """(k, P); the columns sum to zero, so the largest logit is at least the mean of `bias`."""
    bias: Tensor
    """(k,)."""


class Linear(Probe[LinearOptions]):
    """Logistic regression: the baseline that a projector should beat."""

    Options = LinearOptions

    def fit(self, data: ProbeData, seed: int) -> Callable[[Tensor], Tensor]:
        """Fit the regression; if all labels are of one class, predict that class."""
        fitted = self.fit_map(data, seed)

        def predict(pooled: Tensor) -> Tensor:
            logits = unit(pooled.double().cpu()) @ fitted.weight.T + fitted.bias
            found = log_probabilities(logits.softmax(dim=1), fitted.classes, data.num_classes)
            return found.to(pooled.device)

        return predict

    def fit_map(self, data: ProbeData, seed: int) -> LinearMap:
        """Fit the regression; return one affine map of the unit-length embedding, so tensors can hold it."""
        raw, label = unit(data.pooled.double()).cpu().numpy(), data.label.cpu().numpy()
        mean, deviation = raw.mean(axis=0), float(raw.std(axis=0).mean()) or 1.0
        classes = np.unique(label)
        if len(classes) == 1:
            weight, bias = np.zeros((1, raw.shape[1])), np.zeros(1)
        else:
            weight, bias = logistic(self._model(label, seed), (raw - mean) / deviation, label)
        weight = weight / deviation
        return LinearMap(*map(torch.from_numpy, (classes, weight, bias - weight @ mean)))

    def _model(self, label: NDArray[np.int64], seed: int) -> Any:
        """Return scikit-learn's model, with a search of C where the options and labels allow it."""
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import GridSearchCV, StratifiedKFold

        model = LogisticRegression(C=self.options.C or 1.0, max_iter=self.options.max_iter)
        smallest = int(np.unique(label, return_counts=True)[1].min())
        if self.options.C is not None or smallest < 2:
            return model
        folds = StratifiedKFold(min(self.options.folds, smallest), shuffle=True, random_state=seed)
        return GridSearchCV(model, {"C": np.logspace(-4, 1, 6)}, scoring="neg_log_loss", cv=folds)


objective = Linear
