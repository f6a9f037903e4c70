"""How unlike a sample is what a run has seen: from the density of its training samples, and from their classes.

Two distances in the space of the frozen model's pooled embeddings, centred and of unit length:

- to the K-th nearest of the run's training samples, with or without labels: nothing there is like it
  (arXiv 2204.06507, section 3);
- to the nearest mean of the labelled samples of a class: it may be common, but it is like no class.

Each becomes a rank among those of the training samples, and the score is the sum of both ranks. The novelty is
the share of the training samples with a smaller score. So 0.99 means that one in a hundred of the run's own
samples is as unusual. `studies/novelty.py` compares the score with others, among them the confidence alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from featcache.errors import TrainError, option
from featcache.files import explained, write_atomic
from featcache.runs.run import RunFolder

Floats = NDArray[np.floating]
ROWS, K = 2000, 5
"""Most training samples to keep, and which of the nearest ones counts."""
NAME = "reference.safetensors"
_AT_ONCE = 1024


@dataclass(frozen=True)
class Reference:
    """Training samples of a run, as what is usual."""

    embedding: NDArray[np.float16]
    """(n, P) pooled embeddings; the first ones are labelled."""
    label: NDArray[np.int64]
    """(n,) class numbers of the run; -1 for a sample without a label."""

    @classmethod
    def of(cls, draw: Draw) -> Self:
        """Keep some of the training samples of a draw."""
        rows = reference_rows(draw.split.labelled, draw.train_labels, draw.split.unlabelled, draw.seed)
        labelled = np.isin(rows, draw.split.labelled)
        embedding = pooled(draw.data.train_store, rows).numpy()
        return cls.like(embedding, np.where(labelled, draw.train_labels[rows], -1))

    @classmethod
    def like(cls, embedding: Floats, label: NDArray[np.int64]) -> Self:
        """Keep (n, P) pooled embeddings and their labels, -1 for none."""
        return cls(embedding.astype(np.float16), label.astype(np.int64))

    @classmethod
    def load(cls, run: RunFolder) -> Self | None:
        """Read the reference of a run; None for a run of an earlier version.

        Raises TrainError if the file is damaged.
        """
        path = run.path / NAME
        if not path.is_file():
            return None
        try:
            return cls(**load_file(path))
        except (SafetensorError, TypeError, OSError) as error:
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
        """Return the novelty of (N, P) pooled embeddings, from 0 to 1; 0 if there is no reference to speak of.

        >>> line = np.stack([np.ones(6), np.linspace(-0.1, 0.1, 6)], 1)
        >>> Reference.like(line, np.array([0, -1, -1, -1, -1, 1])).novelty(np.array([[1, 0.01], [-1, 0]]))
        array([0., 1.])
        """
        if len(self.embedding) < 2:
            return np.zeros(len(embedding))
        found = np.zeros(len(embedding))
        for start in range(0, len(embedding), _AT_ONCE):
            part = _Space.unit(embedding[start : start + _AT_ONCE])
            pair = self._space.density(part), self._space.class_distance(part)
            found[start : start + len(part)] = self._usual.score(*pair)
        return share_below(self._usual.scores, found)
