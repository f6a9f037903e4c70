"""The estimator: what scikit-learn asks of a classifier, and what its run says."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import featcache as fc
from featcache.sklearn import FewLabelClassifier

Digits = tuple[NDArray[np.float32], NDArray[np.int64]]
EXPECTED = {"check_classifiers_classes": "its classes are -1 and 1, and -1 is unlabelled here"}


def expected(estimator: Any) -> dict[str, str]:
    return EXPECTED


@pytest.mark.slow
@parametrize_with_checks([FewLabelClassifier()], expected_failed_checks=expected)
def test_scikit_learn_s_own_checks(estimator: Any, check: Callable[[Any], None]) -> None:
    check(estimator)


@pytest.fixture(scope="module")
def digits() -> Digits:
    X, y = load_digits(return_X_y=True)
    return X.astype(np.float32)[:400], y[:400]


def few(y: NDArray[np.int64], each: int = 8) -> NDArray[np.int64]:
    return np.where(np.arange(len(y)) % each, -1, y)


@pytest.mark.parametrize("objective", ["linear", "knn", "supervised"])
def test_it_learns_from_few_labels(digits: Digits, objective: str) -> None:
    X, y = digits
    options = {"optim.steps": 20} if objective == "supervised" else None
    made = FewLabelClassifier(objective, options=options).fit(X, few(y))
    assert made.score(X, y) > 0.7
    probabilities = made.predict_proba(X)
    assert probabilities.shape == (400, 10)
    np.testing.assert_allclose(probabilities.sum(1), 1)
    again = pickle.loads(pickle.dumps(made))
    np.testing.assert_array_equal(again.predict_proba(X), probabilities)


def test_unlabelled_rows_are_no_class(digits: Digits) -> None:
    X, y = digits
    assert -1 not in FewLabelClassifier().fit(X, few(y)).classes_
    with pytest.raises(ValueError, match="class"):
        FewLabelClassifier().fit(X, np.full(len(X), -1))


def test_in_a_pipeline_and_in_a_search(digits: Digits) -> None:
    X, y = digits
    made = make_pipeline(StandardScaler(), FewLabelClassifier()).fit(X, few(y))
    assert made.score(X, y) > 0.7
    search = GridSearchCV(FewLabelClassifier(), {"objective": ["linear", "knn"]}, cv=2).fit(X[:100], y[:100])
    assert search.best_params_["objective"] in ("linear", "knn")
    assert search.best_score_ > 0.7


def test_a_cache_gives_what_its_run_gives(make_cache: Callable[..., Path], tmp_path: Path) -> None:
    cache = fc.Cache.open(make_cache(tmp_path / "c.zarr"))
    made = FewLabelClassifier("supervised", options={"optim.steps": 3}).fit(cache)
    run = fc.train(cache, "supervised", out=tmp_path / "run", options={"optim.steps": 3}, progress=False)
    said = run.predict(cache["test"])
    np.testing.assert_array_equal(made.predict_proba(cache["test"]), said.probabilities)
    assert list(made.predict(cache["test"])) == list(said.label)


def test_names_are_classes_and_a_mixture_with_numbers_is_refused(digits: Digits) -> None:
    X, y = digits
    names = np.array([f"digit {n}" for n in y], object)
    assert FewLabelClassifier().fit(X[::8], names[::8]).predict(X[:1])[0] in names
    names[::2] = -1
    with pytest.raises(ValueError, match="label"):
        FewLabelClassifier().fit(X, names)


def test_a_row_that_failed_has_no_class(make_cache: Callable[..., Path], tmp_path: Path) -> None:
    cache = fc.Cache.open(make_cache(tmp_path / "c.zarr", failed={"test": [3]}))
    said = FewLabelClassifier().fit(cache).predict(cache["test"])
    assert [row for row, name in enumerate(said) if name is None] == [3]
