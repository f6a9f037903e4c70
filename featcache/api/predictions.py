"""Predictions of a run for the samples of a cache."""

from __future__ import annotations

import html
import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.errors import MissingExtra


@dataclass(frozen=True, repr=False, eq=False)
class Predictions:
    """Predictions of N samples, in the order of the cache's rows.

    A row that failed in extraction has the label None, and NaN as probabilities and z.
    """

    classes: tuple[str, ...]
    """The names of the C classes of the run."""
    split: NDArray[np.object_]
    """(N,) names of the samples' splits."""
    id: NDArray[np.object_]
    """(N,) sample ids."""
    label: NDArray[np.object_]
    """(N,) names of the predicted classes."""
    truth: NDArray[np.object_]
    """(N,) names of the true classes; None for a sample without a label."""
    probabilities: NDArray[np.float64]
    """(N, C) probabilities of the classes, from 0 to 1."""
    z: NDArray[np.float32]
    """(N, d) representations: z of a trained projector, or the frozen embedding for a probe."""

    @property
    def confidence(self) -> NDArray[np.float64]:
        """(N,) probabilities of the predicted classes."""
        found: NDArray[np.float64] = self.probabilities.max(1)
        return found

    @property
    def accuracy(self) -> float | None:
        """The share of labelled samples that are predicted right; None if no sample is labelled."""
        judged = np.array(
            [a is not None and b is not None for a, b in zip(self.label, self.truth, strict=True)]
        )
        return float((self.label[judged] == self.truth[judged]).mean()) if judged.any() else None

    def __len__(self) -> int:
        return len(self.id)

    def __repr__(self) -> str:
        accuracy = "" if self.accuracy is None else f", accuracy {100 * self.accuracy:.2f} %"
        unknown = sorted({str(name) for name in self.truth if name is not None} - {*self.classes})
        wrong = (
            f" (wrong by necessity, of classes unknown to the run: {', '.join(unknown)})" if unknown else ""
        )
        return f"<Predictions of {len(self)} samples, {len(self.classes)} classes{accuracy}{wrong}>"

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(repr(self))}</p>"

    def to_pandas(self) -> Any:
        """Return a pandas DataFrame with `split`, `id`, `prediction`, `confidence` and `truth`.

        Raises MissingExtra if pandas is not installed.
        """
        try:
            pandas = importlib.import_module("pandas")
        except ImportError:
            raise MissingExtra("the package `pandas` is not installed", hint="pip install pandas") from None
        columns = {"split": self.split, "id": self.id, "prediction": self.label}
        return pandas.DataFrame(columns | {"confidence": self.confidence, "truth": self.truth})
