"""Predictions over the rows of a store, and the figures they give."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from featcache.loading.loader import read_in_order
from featcache.loading.store import FeatureStore
from featcache.objectives.base import Features

Predict = Callable[[Features], Tensor]
BATCH = 512


def map_rows(
    function: Callable[[Features], Tensor],
    store: FeatureStore,
    rows: NDArray[np.int64],
    device: torch.device,
) -> Tensor:
    """`function` of every batch of sorted `rows` under the evaluation view, concatenated on the CPU."""
    with torch.inference_mode():
        return torch.cat([function(part).cpu() for part in read_in_order(store, rows, BATCH, device)])


def log_probs(
    predict: Predict, store: FeatureStore, rows: NDArray[np.int64], device: torch.device
) -> NDArray[np.float64]:
    """(N, C) log-probabilities (nats)."""
    return map_rows(predict, store, rows, device).double().numpy()


def pooled(store: FeatureStore, rows: NDArray[np.int64], device: torch.device) -> Tensor:
    """(N, P) float32: the frozen model's own embeddings."""
    return map_rows(lambda part: part.pooled.float().clone(), store, rows, device)
