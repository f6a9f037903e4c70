"""Held-out predictions in the folder of a run: written, read, and what a damaged file says."""

import json

import numpy as np
import pytest

from featcache.cache.labels import LabelTable
from featcache.errors import TrainError
from featcache.runs.run import RunFolder
from featcache.runs.saved import HELD_OUT
from featcache.stages.train import run_training
from featcache.training.calibration import COLDEST, fit_temperature
from featcache.training.held_out import HeldOut, load_held_out
from featcache.training.request import TrainRequest


def test_a_file_comes_back_as_it_was(tmp_path):
    log_probs = np.array([[-0.25, -2.0], [np.nan, np.nan]])
    correct, kept = np.array([[1, -1], [0, -1]], np.int8), np.array([0.5, 0.0])
    saved = HeldOut(np.array([3, 7]), np.array([0, 1]), log_probs, correct, kept, 10)
    saved.save(tmp_path / HELD_OUT)
    found = load_held_out(RunFolder(tmp_path))
    assert found is not None
    for name, value in vars(saved).items():
        np.testing.assert_array_equal(getattr(found, name), value)
    assert found.log_probs.dtype == np.float64
    assert load_held_out(RunFolder(tmp_path / "other")) is None


def test_a_damaged_file_is_said(tmp_path):
    (tmp_path / HELD_OUT).write_bytes(b"no")
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


OWN = [0, 0, 0, 0, 1, 1, 1, 1, 2] + [-1] * 21
"""Nine labels of three classes, of which the last has one."""


def own_labels(cache, out, objective, **more):
    """Train on labels as users have them: few, one class with a single one, and no labelled test."""
    table = LabelTable(("cat", "dog", "owl"), {"train": np.array(OWN), "test": np.full(18, -1)})
    options = {"optim": {"steps": 4, "batch_size": 4}, "projector": {"heads": 2}, "log": {"every": 1}}
    request = TrainRequest(cache, objective, labels=table, options=options)
    return run_training(request, out, device="cpu", **more)


@pytest.mark.parametrize("objective", ["linear", "supervised"])
def test_own_labels_without_a_test_give_an_estimate(cache, tmp_path, objective):
    result = own_labels(cache, tmp_path / "run", objective)
    found, estimate = load_held_out(RunFolder(tmp_path / "run")), result["estimate"]
    assert "test" not in result
    assert found is not None
    assert found.row.tolist() == list(range(9))
    assert found.known.tolist() == [True] * 8 + [False]
    assert np.isfinite(found.log_probs[:8]).all()
    assert np.isfinite(result["temperature"])
    assert (estimate["labels"], estimate["held_out"]) == (9, 8)
    assert (estimate["folds"], estimate["repeats"]) == ((8, 3) if objective == "linear" else (5, 1))
    assert estimate["per_class"].keys() == {"cat", "dog"}
    low, high = (100 * estimate[end] for end in ("low", "high"))
    assert f"{low:.0f} to {high:.0f} %" in estimate["sentence"]


def test_an_estimate_that_was_interrupted_is_the_same(cache, tmp_path):
    whole = own_labels(cache, tmp_path / "whole", "supervised")
    logged = []

    def interrupt(step, terms):
        logged.append(step)
        if len(logged) == 10:  # in the second fold
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        own_labels(cache, tmp_path / "cut", "supervised", watch=interrupt)
    assert (tmp_path / "cut" / "fold=1").is_dir()
    result = own_labels(cache, tmp_path / "cut", "supervised", resume=True)
    assert result["estimate"] == whole["estimate"]
    one, other = (HeldOut.load(tmp_path / name / HELD_OUT) for name in ("whole", "cut"))
    np.testing.assert_array_equal(one.log_probs, other.log_probs)
