"""What the probes share, and where cosine heads start."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

FLOOR = 1e-12
"""Least probability a probe gives: a class it never saw costs 27.6 nats, not infinity."""


def log_probabilities(
    probability: NDArray[np.float64], classes: NDArray[np.int64], num_classes: int
) -> Tensor:
    """(N, k) probabilities of the k seen `classes` as (N, C) float32 log-probabilities over all classes.

    >>> log_probabilities(np.array([[1.0]]), np.array([1]), 2).exp().tolist()[0][1]
    1.0
    """
    table = torch.full((len(probability), num_classes), FLOOR, dtype=torch.float64)
    table[:, torch.as_tensor(classes)] = torch.as_tensor(probability).clamp(min=FLOOR)
    return (table.log() - table.sum(dim=1, keepdim=True).log()).clamp(min=math.log(FLOOR)).float()


def logistic(
    model: Any, x: NDArray[np.float64], label: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weight (k, d) and bias (k,) of scikit-learn's `model`, fitted to x (n, d) and label (n,).

    Two classes have two rows, as any other number has.
    """
    with warnings.catch_warnings():
        # A label or two for each class is what we are for.
        warnings.filterwarnings("ignore", message="The number of unique classes is greater than")
        model.fit(x, label)
    found = getattr(model, "best_estimator_", model)
    weight, bias = found.coef_, np.broadcast_to(found.intercept_, len(found.coef_))
    if len(weight) == 1:  # two classes: one logit, of the second against the first
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    return weight, bias
