"""What the probes share."""

from __future__ import annotations

import math

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
