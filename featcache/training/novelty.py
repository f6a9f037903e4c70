"""How unlike a sample is what a run has learned: "none of these".

Two distances, in the space of the frozen model's pooled embeddings, each 1 - cosine:

- to the nearest class, the mean of its labelled samples: it may be common, but it is like no class;
- to the K-th nearest of the run's training samples, labelled or not: it is like nothing there
  (arXiv 2204.06507, section 3).

Each becomes a share p of the training samples that are as far. The score is 1 - min(p_class, WEIGHT
p_density), a weighted Bonferroni test. The novelty is the share of the training samples with a smaller score.
So 0.95 means that one in twenty of the run's own samples is as unusual.

`studies/novelty.py` compares the score with others: confidence, either distance alone, the Mahalanobis
distance (arXiv 1610.02136, 2204.06507, 1807.03888), and sums of them. Unknown classes are found by the first
distance, noise and blank images by the second.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

from featcache.runs.run import RunFolder
from featcache.runs.saved import REFERENCE, header, read, readable, write_tensors
from featcache.training.data import Draw
from featcache.training.outputs import pooled
from featcache.vectors import at_length_one

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.int64]
ROWS = 2000
"""Most training samples to keep."""
K, WEIGHT = 5, 5.0
"""Which of the nearest samples counts, and how much less density counts than classes."""
_AT_ONCE = 1024


@dataclass(frozen=True)
class Reference:
    """Some training samples of a run, which say how far is usual."""

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
        return cls(at_length_one(embedding).astype(np.float16), label.astype(np.int64))

    @classmethod
    def load(cls, run: RunFolder) -> Self | None:
        """Read the reference of a run; None for a run of an earlier version.

        Raises TrainError if the file is damaged.
        """
        path = run.path / REFERENCE
        if (data := read(path)) is None:
            return None
        with readable(path):
            found = load(data)
            embedding, label = found["embedding"], found["label"]
            if embedding.ndim != 2 or label.shape != embedding.shape[:1]:
                raise ValueError("arrays whose shapes do not fit")
            return cls(embedding, label)

    def save(self, run: RunFolder) -> None:
        """Write the reference into the folder of a run."""
        write_tensors(
            run.path / REFERENCE, save({"embedding": self.embedding, "label": self.label}, header())
        )

    def novelty(self, embedding: Floats) -> NDArray[np.float64]:
        """Return the novelty of (N, P) pooled embeddings, from 0 to 1; 0 with nothing to compare.

        >>> line = np.stack([np.ones(6), np.linspace(-0.1, 0.1, 6)], 1)
        >>> reference = Reference.like(line, np.array([-1, 0, 0, -1, 1, 1]))
        >>> reference.novelty(np.array([[1, 0.06], [-1, 0]])).tolist()
        [0.0, 1.0]
        """
        if len(self.embedding) < 2:
            return np.zeros(len(embedding))
        parts = [
            at_length_one(embedding[start : start + _AT_ONCE]) for start in range(0, len(embedding), _AT_ONCE)
        ]
        found = [self._score(self._to_class(part), self._to_sample(part)) for part in parts]
        usual = self._score(*self._usual)
        return share_below(usual, np.concatenate([np.zeros(0), *found]))

    def _score(self, to_class: Floats, to_sample: Floats) -> NDArray[np.float64]:
        usual_class, usual_sample = self._usual
        by_class = 1 - share_below(usual_class, to_class)
        by_sample = 1 - share_below(usual_sample, to_sample)
        return np.asarray(1 - np.minimum(by_class, WEIGHT * by_sample))

    def _to_class(self, unit: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(1 - (unit @ at_length_one(self._sums).T).max(1))

    def _to_sample(self, unit: NDArray[np.float32]) -> NDArray[np.float32]:
        return _kth(unit @ self._samples.T, min(K, len(self._samples)))

    @cached_property
    def _samples(self) -> NDArray[np.float32]:
        return self.embedding.astype(np.float32)

    @cached_property
    def _sums(self) -> NDArray[np.float32]:
        """(k, P) sums of the labelled samples of each class that has any; of all samples without labels."""
        kept = self.label if (self.label >= 0).any() else np.zeros_like(self.label)
        return np.stack([self._samples[kept == c].sum(0) for c in np.unique(kept[kept >= 0])])

    @cached_property
    def _usual(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The two distances of every kept sample, without itself among the others."""
        cosine = self._samples @ self._samples.T
        np.fill_diagonal(cosine, -np.inf)
        to_sample = _kth(cosine, min(K, len(cosine) - 1))
        to_class = self._samples @ at_length_one(self._sums).T
        labelled = np.flatnonzero(self.label >= 0)
        place = np.searchsorted(np.unique(self.label[labelled]), self.label[labelled])
        rest = self._sums[place] - self._samples[labelled]
        own = (self._samples[labelled] * at_length_one(rest)).sum(1)
        # A class of one sample has no mean without it.
        to_class[labelled, place] = np.where(np.linalg.norm(rest, axis=1) > 1e-3, own, -1)
        return 1 - to_class.max(1), to_sample


def share_below(usual: Floats, new: Floats) -> NDArray[np.float64]:
    """Return for each of `new` the share of `usual` values that are smaller.

    >>> share_below(np.array([3.0, 1.0]), np.array([0.0, 2.0, 3.0, 4.0])).tolist()
    [0.0, 0.5, 0.5, 1.0]
    """
    # Rounding must not tell a sample from its own copy.
    return np.asarray(np.searchsorted(np.sort(usual), new - 1e-6) / len(usual), np.float64)


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


def _kth(cosine: NDArray[np.float32], k: int) -> NDArray[np.float32]:
    """Return the distance to the k-th nearest of the columns, (N,)."""
    return np.asarray(1 - np.partition(cosine, -k, axis=1)[:, -k])
