"""How unlike a sample is what a run has learned: "none of these".

The score of a sample is its distance to the nearest labelled sample of the run (arXiv 2204.06507, k = 1), in space of the frozen model's pooled embeddings: unit length, Euclidean. It is large for what no class is
like, whether that is common among the unlabelled samples or was never seen.

A distance says nothing to a person. So it is compared with the distances of the run's own training samples,
labelled or not: the novelty is the share of them that are nearer. 0.99 means that one in a hundred of the
run's own samples is as far. `studies/novelty.py` compares the score with others: confidence, the density of
all training samples, the Mahalanobis distance (arXiv 1610.02136, 2204.06507, 1807.03888) and sums of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from featcache.errors import TrainError, option
from featcache.files import explained, write_atomic
from featcache.runs.run import RunFolder
from featcache.training.data import Draw
from featcache.training.outputs import pooled

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.int64]
ROWS = 2000
"""Most training samples to keep."""
NAME = "reference.safetensors"
_AT_ONCE = 1024


@dataclass(frozen=True)
class Reference:
    """Some training samples of a run, which say how far from the labelled ones is usual."""

    embedding: NDArray[np.float16]
    """(n, P) pooled embeddings of unit length."""
    label: Ints
    """(n,) class numbers of the run; -1 for a sample without a label."""

    @classmethod
    def of(cls, draw: Draw) -> Self:
        """Keep the labelled samples of a draw, and some of the others."""
        rows = reference_rows(draw.known.label, draw.known.rows, draw.split.unlabelled, draw.seed)
        labelled = np.isin(rows, draw.known.rows)
        embedding = pooled(draw.data.train_store, rows).numpy()
        return cls.like(embedding, np.where(labelled, draw.train_labels[rows], -1))

    @classmethod
    def like(cls, embedding: Floats, label: Ints) -> Self:
        """Keep (n, P) pooled embeddings and their labels, -1 for none."""
        return cls(_unit(embedding).astype(np.float16), label.astype(np.int64))

    @classmethod
    def load(cls, run: RunFolder) -> Self | None:
        """Read the reference of a run; None for a run of an earlier version.

        Raises TrainError if the file is damaged.
        """
        path = run.path / NAME
        if not path.is_file():
            return None
        try:
            found = load_file(path)
            return cls(found["embedding"], found["label"])
        except (SafetensorError, KeyError, OSError) as error:
            raise TrainError(
                f"{path} is damaged",
                got=str(error).partition("\n")[0],
                hint=f"delete it to predict without novelty, or train again with another {option('out')}",
            ) from error

    def save(self, run: RunFolder) -> None:
        """Write the reference into the folder of a run."""
        path = run.path / NAME
        with explained(path):
            write_atomic(path, save({"embedding": self.embedding, "label": self.label}))

    def novelty(self, embedding: Floats) -> NDArray[np.float64]:
        """Return the novelty of (N, P) pooled embeddings, from 0 to 1; 0 without two labelled samples.

        >>> line = np.stack([np.ones(6), np.linspace(-0.1, 0.1, 6)], 1)
        >>> reference = Reference.like(line, np.array([0, -1, -1, -1, -1, 1]))
        >>> reference.novelty(np.array([[1, 0.1], [-1, 0]])).tolist()
        [0.0, 1.0]
        """
        if len(self._labelled) < 2:
            return np.zeros(len(embedding))
        starts = range(0, len(embedding), _AT_ONCE)
        parts = [self._distance(_unit(embedding[start : start + _AT_ONCE])) for start in starts]
        found: NDArray[np.float32] = np.concatenate([np.zeros(0, np.float32), *parts])
        return np.asarray(np.searchsorted(self._usual, found) / len(self._usual), np.float64)

    @cached_property
    def _labelled(self) -> NDArray[np.float32]:
        return self.embedding[self.label >= 0].astype(np.float32)

    @cached_property
    def _usual(self) -> NDArray[np.float32]:
        """The sorted distances of the kept samples, of a labelled one to the nearest other one."""
        everything, labelled = self.embedding.astype(np.float32), np.flatnonzero(self.label >= 0)
        similarity = everything @ self._labelled.T
        similarity[labelled, np.arange(len(labelled))] = -np.inf
        return np.sort(_distance(similarity.max(1)))

    def _distance(self, unit: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the distance of (N, P) unit rows to the nearest labelled sample."""
        return _distance((unit @ self._labelled.T).max(1))


def reference_rows(label: Ints, labelled: Ints, usable: Ints, seed: int) -> Ints:
    """Draw the rows to keep, sorted: about ROWS of the `usable` ones at most.

    All `labelled` rows are kept, of class `label`, or about ROWS / 2 of them, evenly from the classes but at
    least one of each. The rest is drawn from all usable rows.

    >>> rows = reference_rows(np.repeat([0, 1], 5000), np.arange(10_000), np.arange(20_000), seed=0)
    >>> len(rows), int((rows < 5000).sum() >= 500)
    (2000, 1)
    """
    rng = np.random.default_rng([seed, ROWS])
    kept = labelled
    if len(labelled) > ROWS // 2:
        order = rng.permutation(len(labelled))
        each = max(1, ROWS // 2 // len(np.unique(label)))
        kept = np.concatenate([labelled[order[label[order] == c][:each]] for c in np.unique(label)])
    others = np.setdiff1d(usable, kept)
    room = max(ROWS - len(kept), 0)
    drawn = others if len(others) <= room else rng.choice(others, room, replace=False)
    return np.sort(np.concatenate([kept, drawn]))


def _unit(rows: Floats) -> NDArray[np.float32]:
    length = np.linalg.norm(rows.astype(np.float32), axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(length, 1e-12), np.float32)


def _distance(cosine: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the distance of unit vectors from their cosine: |a - b|^2 = 2 - 2 a b."""
    return np.sqrt(np.maximum(2 - 2 * cosine, 0))
