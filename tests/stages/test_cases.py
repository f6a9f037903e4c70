"""`train` with unknown or missing classes and long tails: its task, its test and its predictions."""

import csv
import json

import numpy as np
import pytest

from featcache import plugins
from featcache.cache.reader import CacheReader
from featcache.errors import ConfigError, TrainError
from featcache.stages.predict import predict
from featcache.stages.train import run_training
from featcache.training.metrics import open_set
from featcache.training.request import TrainRequest

pytestmark = pytest.mark.usefixtures("one_thread")
OBJECTIVES = plugins.names("objectives")
CLASSES = ("ant", "bee", "cat", "dog", "elk", "fox")
SPLITS = {"train": [row % 6 for row in range(60)], "test": [row % 6 for row in range(30)]}


@pytest.fixture(scope="module", params=[True, False], ids=["names", "no names"])
def cache(request, make_cache, tmp_path_factory):
    """Six classes, with and without a text tower; not to be changed."""
    path = tmp_path_factory.mktemp("cases") / "cache.zarr"
    return make_cache(path, splits=SPLITS, classes=CLASSES, text=request.param, weak=1)


@pytest.fixture
def learn(tmp_path):
    """Trains for three steps; returns the result and what was labelled."""

    def go(cache, objective="supervised", out="run", seed=0, **data):
        optim = {"steps": 3, "batch_size": 4}
        options = {"projector": {"heads": 2}, "optim": optim, "data": data}
        request = TrainRequest(cache, objective, seed, labels_per_class=2, options=options)
        result = run_training(request, tmp_path / out, device="cpu")
        return result, json.loads((tmp_path / out / "labels.json").read_text())

    return go


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize(
    "data",
    [{"missing_classes": 2}, {"unknown_classes": 2}, {"imbalance": 10}],
    ids=lambda data: next(iter(data)),
)
def test_every_objective_copes(cache, learn, objective, data):
    if objective == "zero_shot" and CacheReader.open(cache).class_text is None:
        pytest.skip("this control needs names of classes")
    result, _ = learn(cache, objective, **data)
    named = 6 - data.get("unknown_classes", 0)
    assert len(result["test"]["per_class"]) == named
    assert result["test"]["samples"] == 5 * named
    assert np.isfinite(result["test"]["nll"])
    assert ("open_set" in result) == ("unknown_classes" in data)


def test_unknown_classes_leave_the_task_and_stay_in_the_unlabelled_set(cache, learn, tmp_path):
    _, before = learn(cache, out="plain")
    result, labels = learn(cache, unknown_classes=2)
    assert "unknown" not in before
    assert len(labels["unknown"]) == 2
    assert set(result["test"]["per_class"]) == set(CLASSES) - set(labels["unknown"])
    assert len(result["test"]["confusion"]) == 4
    assert labels["unlabelled_rows"] == list(range(60))
    truth = np.array(SPLITS["train"])
    kept = [row for row in before["rows"] if CLASSES[truth[row]] not in labels["unknown"]]
    assert labels["rows"] == kept
    assert result["num_labels"] == 8
    assert result["open_set"]["unknown"] == 10
    assert 0 <= result["open_set"]["auroc"] <= 1
    assert 0 <= result["open_set"]["novelty_auroc"] <= 1
    summary = predict(tmp_path / "run", cache, tmp_path / "p.csv", split="test", device="cpu")["test"]
    assert summary.unknown == dict.fromkeys(labels["unknown"], 5)
    assert summary.right == round(20 * result["test"]["accuracy"])
    with (tmp_path / "p.csv").open() as file:
        assert not {line["prediction"] for line in csv.DictReader(file)} & set(labels["unknown"])


def test_a_class_without_labels_stays_a_class(cache, learn):
    result, labels = learn(cache, missing_classes=1)
    assert result["num_labels"] == 10
    (missing,) = labels["missing"]
    assert CLASSES.index(missing) not in {SPLITS["train"][row] for row in labels["rows"]}
    assert missing in result["test"]["per_class"]


def test_a_long_tail_thins_the_unlabelled_rows_alone(cache, learn):
    plain, before = learn(cache, out="plain")
    result, labels = learn(cache, imbalance=10)
    assert labels["rows"] == before["rows"]
    counts = np.bincount([SPLITS["train"][row] for row in labels["unlabelled_rows"]])
    assert sorted(counts.tolist()) == [2, 2, 2, 3, 6, 10]
    assert result["test"]["samples"] == plain["test"]["samples"] == 30
    assert set(labels["rows"]) <= set(labels["unlabelled_rows"])


def test_another_seed_is_another_case(cache, learn):
    drawn = [learn(cache, out=str(seed), seed=seed, unknown_classes=2)[1]["unknown"] for seed in range(4)]
    assert len({tuple(names) for names in drawn}) > 1


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (
            {"imbalance": 0.5},
            ConfigError,
            r"`data\.imbalance`[\s\S]*got: +0\.5\n[\s\S]*greater than or equal",
        ),
        ({"unknown_classes": -1}, ConfigError, r"`data\.unknown_classes`[\s\S]*got: +-1"),
        (
            {"unknown_classes": 3, "missing_classes": 2},
            TrainError,
            r"too few classes[\s\S]*leave out .*\b4\b",
        ),
    ],
)
def test_refusals_write_nothing(cache, learn, tmp_path, data, error, message):
    with pytest.raises(error, match=message):
        learn(cache, **data)
    assert not (tmp_path / "run").exists()


def test_a_case_needs_labels(make_cache, learn, tmp_path):
    bare = make_cache(tmp_path / "c.zarr", splits={"train": [-1] * 6, "test": [0]})
    with pytest.raises(TrainError, match="no labels to draw from"):
        learn(bare, imbalance=10)


def test_open_set_against_counting_pairs():
    rng = np.random.default_rng(0)
    known, unknown = (np.log(rng.dirichlet(np.ones(4), n)) for n in (15, 9))
    pairs = known.max(1)[:, None] > unknown.max(1)
    assert open_set(known, unknown) == {"auroc": pytest.approx(pairs.mean()), "unknown": 9}
