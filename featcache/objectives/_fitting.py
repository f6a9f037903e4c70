"""Fits by scikit-learn: logistic regression as a weight and a bias, and probabilities as a table of logs."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

FLOOR = 1e-12
"""Lowest probability of a fitted classifier: an unseen class costs 27.6 nats instead of infinity."""


def log_probabilities(probability: Tensor, classes: Tensor, num_classes: int) -> Tensor:
    """Extend (N, k) probabilities of k `classes` to (N, C) float32 log-probabilities of all classes.

    >>> log_probabilities(torch.ones(1, 1), torch.tensor([1]), 2).exp().tolist()[0][1]
    1.0
    """
    table = probability.new_full((probability.shape[0], num_classes), FLOOR, dtype=torch.float64)
    table = table.index_copy(1, classes, probability.double().clamp(min=FLOOR))
    return (table.log() - table.sum(dim=1, keepdim=True).log()).clamp(min=math.log(FLOOR)).float()


def logistic(
    model: Any, x: NDArray[np.float64], label: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fit scikit-learn's `model` to x (n, d) and label (n,); return its weight (k, d) and bias (k,).

    There is one row per class, also for two classes.
    """
    with warnings.catch_warnings():
        # scikit-learn warns if there are few labels per class, which is our usual case.
        warnings.filterwarnings("ignore", message="The number of unique classes is greater than")
        model.fit(x, label)
    found = getattr(model, "best_estimator_", model)
    weight, bias = found.coef_, np.broadcast_to(found.intercept_, len(found.coef_))
    if len(weight) == 1:  # for two classes it has one logit, of the second against the first
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    return weight, bias
