"""The predictions of labelled rows by models that did not see them, and their file in a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load
from safetensors.numpy import save as serialize

from featcache.runs.run import RunFolder
from featcache.runs.saved import HELD_OUT, header, read, readable, write_tensors

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class HeldOut:
    """The n labelled rows of a training, each predicted without its label, once in each of R repeats.

    The only label of a class is never held out. Its log-probabilities are NaN.
    """

    row: Ints
    """(n,) sorted rows of the training split."""
    label: Ints
    """(n,) class numbers of the task."""
    log_probs: Floats
    """(n, C) in nats: the mean over the repeats, normalised again."""
    correct: NDArray[np.int8]
    """(R, n): 1 where the repeat predicted the label, 0 where it did not, and -1 for a row never held out."""
    kept: Floats
    """(n,) from 0 to 1: the share of its class's labels that the models which predicted the row had. It is
    the mean over the repeats, and 0 for a row never held out."""
    folds: int
    """The number of folds of each repeat."""

    @property
    def known(self) -> NDArray[np.bool_]:
        """(n,) True for the rows that were held out."""
        return np.asarray(self.correct[0] >= 0)

    def save(self, path: Path) -> None:
        """Write the file in safetensors, atomically; log-probabilities are float32."""
        tensors: dict[str, NDArray[Any]] = {
            "row": self.row,
            "label": self.label,
            "log_probs": self.log_probs.astype(np.float32),
            "correct": self.correct,
            "kept": self.kept,
            "folds": np.array(self.folds),
        }
        write_tensors(path, serialize(tensors, header()))

    @classmethod
    def load(cls, path: Path) -> Self | None:
        """Read the file; None if there is none, and a TrainError if it is damaged."""
        if (data := read(path)) is None:
            return None
        with readable(path, "predictions of held-out rows, as a training writes them"):
            found = load(data)
            row, log_probs, correct = found["row"], found["log_probs"].astype(np.float64), found["correct"]
            lengths = {len(found[name]) for name in ("row", "label", "log_probs", "kept")} | {
                *correct.shape[1:]
            }
            if log_probs.ndim != 2 or lengths != {len(row)}:
                raise ValueError("arrays whose shapes do not fit")
            return cls(row, found["label"], log_probs, correct, found["kept"], int(found["folds"]))


def load_held_out(run: RunFolder) -> HeldOut | None:
    """Return the held-out predictions of a run; None if it trained no folds."""
    return HeldOut.load(run.path / HELD_OUT)
