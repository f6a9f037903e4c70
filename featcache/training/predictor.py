"""What a function makes of the rows of a store."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from featcache.batch import Features
from featcache.cache.reader import WRITTEN, SplitReader
from featcache.loading.loader import read_in_order
from featcache.loading.store import FeatureStore
from featcache.training.state import TrainState

BATCH = 128


class Seen(NamedTuple):
    """What is made of N rows, on the CPU."""

    z: Tensor
    """(N, P) representations: adapted, or of a probe the frozen model's own."""
    log_probs: Tensor
    """(N, C) in nats."""


@dataclass(frozen=True)
class Predict:
    """From sorted rows of a store to (N, C) log-probabilities (nats) on the CPU."""

    look: Callable[[FeatureStore, NDArray[np.int64], int], Seen]
    """The same under any view (by number), with the representations."""

    def __call__(self, store: FeatureStore, rows: NDArray[np.int64]) -> Tensor:
        return self.look(store, rows, 0).log_probs


@dataclass(frozen=True)
class Labelled:
    """Rows of a split (sorted) and their labels."""

    store: FeatureStore
    rows: NDArray[np.int64]
    label: NDArray[np.int64]

    @classmethod
    def of(cls, store: FeatureStore, split: SplitReader) -> Labelled:
        """All that have a label and could be read."""
        rows = np.flatnonzero((split.status[:, 0] == WRITTEN) & (split.labels >= 0))
        return cls(store, rows, split.labels[rows])


def finish(state: TrainState, known: Labelled, device: torch.device) -> None:
    """After the last step: give the objective the labelled samples as they are then."""
    projector, objective = state.evaluated()
    z = map_rows(projector, known.store, known.rows, device)
    objective.finish(z.float(), torch.from_numpy(known.label))


def of_state(state: TrainState, device: torch.device) -> Predict:
    """Projector and heads over the tokens of rows."""
    projector, objective = state.evaluated()

    def both(features: Features) -> Tensor:
        z = projector(features)
        return torch.cat([z.float(), objective.logits(z).float().log_softmax(1)], 1)

    def look(store: FeatureStore, rows: NDArray[np.int64], view: int) -> Seen:
        classes = objective.task.num_classes
        mapped = map_rows(both, store, rows, device, view)
        return Seen(mapped[:, :-classes], mapped[:, -classes:])

    return Predict(look)


def of_probe(fitted: Callable[[Tensor], Tensor]) -> Predict:
    """A fitted probe over the pooled embeddings of rows."""

    def look(store: FeatureStore, rows: NDArray[np.int64], view: int) -> Seen:
        z = pooled(store, rows, view)
        return Seen(z, fitted(z))

    return Predict(look)


def map_rows(
    function: Callable[[Features], Tensor],
    store: FeatureStore,
    rows: NDArray[np.int64],
    device: torch.device,
    view: int = 0,
) -> Tensor:
    """`function` of every batch of sorted `rows` under one view, concatenated on the CPU."""
    with torch.inference_mode():
        parts = read_in_order(store, rows, BATCH, device, view)
        return torch.cat([function(part).cpu() for part in parts])


def pooled(store: FeatureStore, rows: NDArray[np.int64], view: int = 0) -> Tensor:
    """(N, P) float32 on the CPU: the frozen model's own embeddings; of the rows' tokens, nothing is read."""
    column = store.columns["pooled"]
    return column.gather(rows, view, column.buffer(len(rows), pinned=False)).cpu().float()
