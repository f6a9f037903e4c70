"""Real data: features of handwriting by glyph-clip, and the gain from one label per class."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from featcache.specs import ViewSpec
from featcache.stages.extract import extract
from featcache.stages.train import run_training
from featcache.training.request import TrainRequest

PIXELS = Path(__file__).parents[2] / "examples" / "pixels.py"
SEEDS = (0, 1, 2)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Caches of the digits by name: through glyph-clip with two views, and as they are."""
    folder = tmp_path_factory.mktemp("digits")
    common = {"num_workers": 0, "limit": 400}
    views = ViewSpec(weak=1, flip=0, crop=0.85)
    out = folder / "glyphs.zarr"
    extract("digits", "open_clip:glyph-clip", out, tokens="grid:4x4", views=views, **common)
    extract("digits", f"python:{PIXELS}:build", folder / "pixels.zarr", **common)
    yield {"glyphs": folder / "glyphs.zarr", "pixels": folder / "pixels.zarr"}
    shutil.rmtree(folder)


@pytest.fixture
def accuracy(digits, tmp_path, one_thread):
    """Mean test accuracy of a method on a cache over label draws, in percent."""

    def mean(objective, cache="glyphs", labels=1):
        options = {} if objective in {"zero_shot", "linear"} else {"optim": {"steps": 60}}
        found = []
        for seed in SEEDS:
            request = TrainRequest(digits[cache], objective, seed, labels_per_class=labels, options=options)
            result = run_training(request, tmp_path / f"{objective}-{cache}-{labels}-{seed}")
            found.append(100 * result["test"]["accuracy"])
        return np.mean(found)

    return mean


def test_names_alone_tell_most_digits_apart(accuracy):
    assert accuracy("zero_shot") > 80


@pytest.mark.parametrize("labels", [1, 2, 4])
def test_frozen_features_beat_pixels(accuracy, labels):
    assert accuracy("linear", labels=labels) > accuracy("linear", "pixels", labels) + 5


def test_unlabelled_samples_are_worth_more_than_the_controls(accuracy):
    adapted = accuracy("twinturbo")
    assert adapted > accuracy("linear") + 2
    assert adapted > accuracy("supervised") + 1
    assert adapted > accuracy("zero_shot") + 2
