"""What a function makes of the rows of a store."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from featcache.loading.loader import read_in_order
from featcache.loading.store import FeatureStore
from featcache.objectives.base import Features
from featcache.training.loop import predictor
from featcache.training.state import TrainState

Predict = Callable[[FeatureStore, NDArray[np.int64]], Tensor]
"""From sorted rows of a store to (N, C) log-probabilities (nats) on the CPU."""
BATCH = 128


def of_state(state: TrainState, device: torch.device) -> Predict:
    """Projector and heads over the tokens of rows."""
    log_probs = predictor(*state.evaluated())
    return lambda store, rows: map_rows(log_probs, store, rows, device)


def of_probe(fitted: Callable[[Tensor], Tensor]) -> Predict:
    """A fitted probe over the pooled embeddings of rows."""
    return lambda store, rows: fitted(pooled(store, rows))


def map_rows(
    function: Callable[[Features], Tensor],
    store: FeatureStore,
    rows: NDArray[np.int64],
    device: torch.device,
) -> Tensor:
    """`function` of every batch of sorted `rows` under the evaluation view, concatenated on the CPU."""
    with torch.inference_mode():
        return torch.cat([function(part).cpu() for part in read_in_order(store, rows, BATCH, device)])


def pooled(store: FeatureStore, rows: NDArray[np.int64]) -> Tensor:
    """(N, P) float32 on the CPU: the frozen model's own embeddings; of the rows' tokens, nothing is read."""
    column = store.columns["pooled"]
    return column.gather(rows, 0, column.buffer(len(rows), pinned=False)).cpu().float()
