"""Apply a model to stored rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from featcache.batch import Features
from featcache.loading.loader import read_in_order
from featcache.loading.store import FeatureStore

BATCH = 128


class Outputs(NamedTuple):
    """The outputs of a model for N rows, on the CPU."""

    z: Tensor
    """(N, d) representations: adapted by a projector, or the frozen embeddings for a probe."""
    log_probs: Tensor
    """(N, C) log-probabilities of the classes, in nats."""


def map_rows(
    function: Callable[[Features], Tensor],
    store: FeatureStore,
    rows: NDArray[np.int64],
    device: torch.device,
    view: int = 0,
) -> Tensor:
    """Apply `function` to sorted `rows` of one view in batches; return the concatenation on the CPU."""
    with torch.inference_mode():
        parts = read_in_order(store, rows, BATCH, device, view)
        return torch.cat([function(part).cpu() for part in parts])


def pooled(store: FeatureStore, rows: NDArray[np.int64], view: int = 0) -> Tensor:
    """Read the frozen model's pooled embeddings, (N, P) float32 on the CPU; tokens are not read."""
    column = store.columns["pooled"]
    found = column.gather(rows, view, column.buffer(len(rows), pinned=False)).cpu().float()
    column.array.finish_checks()
    return found
