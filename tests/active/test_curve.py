"""The learning curve: an exact law is found again, and what cannot be known is not said."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from featcache.active.curve import Curve, Forecast, forecast, measure


def curve(errors: list[float], sizes: list[int], rows: int = 1000) -> Curve:
    right = np.stack([np.arange(rows) >= error * rows for error in errors])
    return Curve(np.array(sizes, float), np.stack([right] * 3))


def test_a_power_law_is_extrapolated() -> None:
    sizes = [20, 40, 80, 160]
    found = forecast(
        curve([0.8 * size**-0.5 for size in sizes], sizes), 200, 50, np.ones(1000), np.random.default_rng(0)
    )
    assert found.now == pytest.approx(1 - 0.8 * 200**-0.5, abs=2e-3)
    assert found.gain == pytest.approx(0.8 * (200**-0.5 - 250**-0.5), abs=1e-3)
    assert found.gain_interval is not None
    assert 0 < found.gain_interval[0] < found.gain < found.gain_interval[1]
    assert found.stop is False  # small, but surely more than nothing


def test_a_steep_curve_says_go_on_and_a_flat_one_stop() -> None:
    rng, ones = np.random.default_rng(0), np.ones(1000)
    assert forecast(curve([0.6, 0.5, 0.4, 0.3], [8, 11, 15, 20]), 25, 20, ones, rng).stop is False
    flat = forecast(curve([0.3, 0.3, 0.31, 0.3], [80, 110, 150, 200]), 250, 20, ones, rng)
    assert flat.stop is True
    assert flat.gain == pytest.approx(0, abs=0.005)


def test_rows_count_as_often_as_they_stand_for_others() -> None:
    right = np.zeros((1, 2, 100), bool)
    right[:, :, :50] = True
    heavy = np.where(np.arange(100) < 50, 9.0, 1.0)
    found = forecast(Curve(np.array([50.0, 80.0]), right), 100, 20, heavy, np.random.default_rng(0))
    assert found.now == pytest.approx(0.9)


def test_no_row_is_predicted_by_a_classifier_that_learned_it() -> None:
    label = np.repeat(np.arange(3), 10)
    seen: list[int] = []

    def predict(learned: NDArray[np.int64], asked: NDArray[np.int64]) -> NDArray[np.int64]:
        assert not {*learned.tolist()} & {*asked.tolist()}
        seen.append(len(learned))
        return label[asked]

    found = measure(predict, label, np.random.default_rng(0), repeats=2)
    assert found.right.all()
    assert found.sizes.round().astype(int).tolist() == [10, 13, 18, 24] == sorted({*seen})


def test_too_few_labels_say_nothing() -> None:
    nothing = Forecast(3, 20)
    assert (nothing.now, nothing.gain, nothing.stop) == (None, None, None)
    assert "3 labels" in nothing.text()
