"""A scikit-learn estimator: train an objective of featcache on arrays of embeddings or on a cache.

>>> import numpy as np
>>> from sklearn.datasets import load_iris
>>> X, y = load_iris(return_X_y=True)
>>> few = np.where(np.arange(len(y)) % 10, -1, y)  # 15 labels; -1 is unlabelled
>>> FewLabelClassifier().fit(X, few).score(X, y) > 0.9
True
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data

from featcache.api.cache import Cache, Split
from featcache.api.run import Run
from featcache.batch import Features
from featcache.stages.import_ import import_embeddings
from featcache.stages.train import train
from featcache.training.calibration import scaled
from featcache.training.prediction import Predictor

UNLABELLED = -1
Data = Any
"""An array (N, P) of embeddings, a cache, or a split of one."""


class FewLabelClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Learn from few labelled and many unlabelled embeddings.

    Parameters: `objective` is one of `featcache objectives`, and `options` are those of a training, such as
    `{"optim.steps": 50}`. `random_state` seeds the training. `device` is auto, cpu or cuda.

    In arrays a sample is one token, as in embeddings that are imported; objectives that need stored views are
    for caches. Confidences are calibrated with the temperature that the training fitted. A fitted estimator
    holds its run in memory, so it can be pickled and copied.
    """

    def __init__(
        self,
        objective: str = "linear",
        *,
        options: Mapping[str, Any] | None = None,
        random_state: int = 0,
        device: str = "auto",
    ) -> None:
        self.objective, self.options = objective, options
        self.random_state, self.device = random_state, device

    def fit(self, X: Data, y: Any = None) -> Self:
        """Train on embeddings X (N, P) and labels y (N,), where -1 is unlabelled; or on a cache.

        The labels of a cache are its own. Raises ValueError if the input is not valid, or if it has labels of
        fewer than two classes.
        """
        with TemporaryDirectory() as folder:
            if isinstance(X, Cache):
                self.classes_, self._names, cache = np.array(X.class_names), X.class_names, X
            else:
                X, y = self._validated(X, y)
                self.classes_, cache = self._cache_of(X, y, Path(folder))
                self._names = tuple(map(_name, range(len(self.classes_))))
            if len(self.classes_) < 2:
                raise ValueError(f"needs labels of two classes or more, got {len(self.classes_)} class")
            run = train(
                cache,
                self.objective,
                out=Path(folder) / "run",
                seed=self.random_state,
                options=self.options,
                device=self.device,
                progress=False,
            )
            self.run_ = {file.name: file.read_bytes() for file in run.path.iterdir() if file.is_file()}
        self._predictor: Predictor | None = None
        self._opened()
        return self

    def predict_proba(self, X: Data) -> NDArray[np.float64]:
        """Return calibrated probabilities (N, C), in the order of `classes_`; NaN for rows that failed."""
        check_is_fitted(self)
        predictor = self._opened()
        if isinstance(X, Cache | Split):
            with TemporaryDirectory() as folder:
                return self._ordered(self._run_in(Path(folder)).predict(X, device=self.device).probabilities)
        values = torch.from_numpy(validate_data(self, X, reset=False, dtype=np.float32))
        with torch.inference_mode():
            on = values.to(predictor.learner.device)
            outputs = predictor.learner.apply(Features(on[:, None], None, on))
        log_probs = outputs.log_probs.double().cpu().numpy()
        return self._ordered(np.exp(scaled(log_probs, predictor.temperature)))

    def predict(self, X: Data) -> NDArray[Any]:
        """Return the most probable class of each sample (N,); None for rows of a cache that failed."""
        probabilities = self.predict_proba(X)
        found: NDArray[Any] = self.classes_[probabilities.argmax(1)]
        if (failed := np.isnan(probabilities).any(1)).any():
            found = found.astype(object)
            found[failed] = None
        return found

    def __getstate__(self) -> dict[str, Any]:
        # The run says everything; the state of the learner holds functions, which cannot be pickled.
        state: dict[str, Any] = super().__getstate__()
        return state | ({"_predictor": None} if "_predictor" in state else {})

    def _validated(self, X: Any, y: Any) -> tuple[NDArray[np.float32], NDArray[Any]]:
        if y is None:
            raise ValueError("requires y to be passed, but the target y is None")
        X, y = validate_data(self, X, y, dtype=np.float32, ensure_min_samples=2)
        y = column_or_1d(y, warn=True)
        check_classification_targets(y)
        return X, y

    def _cache_of(self, X: Any, y: Any, folder: Path) -> tuple[NDArray[Any], Cache]:
        """Write arrays into a cache whose classes are numbered."""
        known = np.array([value != UNLABELLED for value in y.tolist()], bool)  # of names as of numbers
        classes, number = np.unique(y[known], return_inverse=True)
        label = np.full(len(y), "", object)
        label[known] = [_name(n) for n in number]
        np.savez(folder / "given.npz", pooled=X, labels=label.astype(str))
        return classes, import_embeddings(
            folder / "given.npz",
            folder / "c.zarr",
            progress=False,
            model="given",
            pooled="pooled",
            labels="labels",
        )

    def _run_in(self, folder: Path) -> Run:
        for name, content in self.run_.items():
            (folder / name).write_bytes(content)
        return Run.open(folder, trust=True)

    def _opened(self) -> Predictor:
        if self._predictor is None:
            with TemporaryDirectory() as folder:
                self._predictor = self._run_in(Path(folder)).predictor(self.device)
        return self._predictor

    def _ordered(self, probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return columns in the order of `classes_`; a class without a label has the probability 0."""
        found = np.zeros((len(probabilities), len(self.classes_)))
        found[:, [self._names.index(name) for name in self._opened().class_names]] = probabilities
        return found


def _name(number: int) -> str:
    """Return the name of a class in a cache of arrays."""
    return f"class {number}"
