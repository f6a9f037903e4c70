"""Held-out predictions in the folder of a run: written, read, and what a damaged file says."""

import json

import numpy as np
import pytest

from featcache.errors import TrainError
from featcache.runs.run import RunFolder
from featcache.training.calibration import COLDEST, fit_temperature
from featcache.training.held_out import FILE, HeldOut, load_held_out


def test_a_file_comes_back_as_it_was(tmp_path):
    log_probs = np.array([[-0.25, -2.0], [np.nan, np.nan]])
    correct, kept = np.array([[1, -1], [0, -1]], np.int8), np.array([0.5, 0.0])
    saved = HeldOut(np.array([3, 7]), np.array([0, 1]), log_probs, correct, kept, 10)
    saved.save(tmp_path / FILE)
    found = load_held_out(RunFolder(tmp_path))
    assert found is not None
    for name, value in vars(saved).items():
        np.testing.assert_array_equal(getattr(found, name), value)
    assert found.log_probs.dtype == np.float64
    assert load_held_out(RunFolder(tmp_path / "other")) is None


def test_a_damaged_file_is_said(tmp_path):
    (tmp_path / FILE).write_bytes(b"no")
    with pytest.raises(TrainError, match="held_out"):
        load_held_out(RunFolder(tmp_path))


def test_a_run_keeps_what_its_figures_come_from(run):
    folder = run("run", objective="knn", cv=2)
    found, result = load_held_out(RunFolder(folder)), json.loads((folder / "result.json").read_text())
    labels = json.loads((folder / "labels.json").read_text())
    assert found is not None
    assert found.row.tolist() == labels["rows"]
    assert found.folds == 2
    assert found.correct.mean() == result["held_out"]["accuracy"]
    assert fit_temperature(found.log_probs, found.label, COLDEST) == pytest.approx(result["temperature"])
    np.testing.assert_array_equal(found.log_probs.argmax(1) == found.label, found.correct[0] == 1)
