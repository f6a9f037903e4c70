"""`train` with a replay cache: command line, forgetting, resuming, moving and prediction."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from featcache.errors import CacheMismatch, TrainError
from featcache.stages.pipeline import Pipeline
from featcache.stages.predict import predict
from featcache.stages.train import run_training
from featcache.training.request import TrainRequest

pytestmark = pytest.mark.usefixtures("one_thread")
NAMES = {
    f"{cache}_{probe}_{when}"
    for cache in ("target", "replay")
    for probe in ("knn", "linear")
    for when in ("before", "after")
}
OPTIONS = ["optim.steps=6", "optim.batch_size=4", "optim.lr=0.01", "projector.heads=2", "log.every=2"]


@pytest.fixture
def old(make_cache, tmp_path):
    """A replay cache with fewer views."""
    splits = {"train": [0, 1] * 8, "test": [0, 1] * 4}
    return make_cache(tmp_path / "old.zarr", splits=splits, classes=("x", "y"), weak=1)


@pytest.fixture
def go(cache, tmp_path):
    """Trains `unsupervised` into a folder; returns the result."""

    def run(name, source=None, *, resume=False, steps=6, objective="unsupervised", **data):
        options = {
            "optim": {"steps": steps, "batch_size": 4, "lr": 0.01},
            "projector": {"heads": 2},
            "log": {"every": 2, "checkpoint_every": 2},
            "data": {"replay_ratio": 0.25, **({"replay": source} if source else {}), **data},
        }
        request = TrainRequest(cache, objective, labels_per_class=2, options=options)
        return run_training(request, tmp_path / name, device="cpu", resume=resume)

    return run


def test_from_the_command_line_to_what_was_forgotten(cache, old, tmp_path, featcache):
    pairs = [f"--set={pair}" for pair in (*OPTIONS, f"data.replay={old}", "data.replay_ratio=0.25")]
    chosen = ("--objective", "unsupervised", "--labels-per-class", 2, "--device", "cpu")
    told = featcache("train", cache, *chosen, "--out", tmp_path / "run", *pairs).output
    assert told.startswith("unsupervised, 6 labels, seed 0: accuracy ")
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["probes"].keys() == NAMES
    assert result["test"]["accuracy"] == result["probes"]["target_linear_after"]
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["replay_share"] for line in lines] == pytest.approx([3 / 15] * 3)
    assert all({"nce", "nce_mix", "keep"} < line.keys() for line in lines)
    summary = predict(tmp_path / "run", cache, tmp_path / "p.csv", split="test", device="cpu")["test"]
    assert summary.accuracy == pytest.approx(result["test"]["accuracy"])


def test_the_figures_before_are_those_of_the_probes(go):
    before = go("run")["probes"]
    assert before.keys() == {name for name in NAMES if name.startswith("target")}
    assert before["target_linear_before"] == go("linear", objective="linear")["test"]["accuracy"]
    assert before["target_knn_before"] == go("knn", objective="knn")["test"]["accuracy"]
    assert "probes" not in go("supervised", objective="supervised")


def test_resumed_equals_uninterrupted_wherever_the_caches_lie(go, old, tmp_path):
    whole = go("whole", old)
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    (tmp_path / "cut" / "result.json").unlink()
    (tmp_path / "cut" / "checkpoint.safetensors").unlink()
    moved = old.rename(tmp_path / "moved.zarr")
    again = go("cut", moved, resume=True)
    assert again["probes"] == whole["probes"]
    a, b = (load_file(tmp_path / name / "checkpoint.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(a[name], b[name]) for name in a | b)
    with pytest.raises(TrainError, match="`replay"):
        go("cut", resume=True)


def test_a_source_without_test_labels_is_replayed_all_the_same(go, make_cache, tmp_path):
    bare = make_cache(tmp_path / "bare.zarr", splits={"train": [-1] * 9})
    assert go("run", bare)["probes"].keys() == {name for name in NAMES if name.startswith("target")}


def test_residency_does_not_change_a_bit(go, old, tmp_path):
    for where in ("stream", "ram"):
        go(where, old, residency=where)
    a, b = (load_file(tmp_path / name / "checkpoint.safetensors") for name in ("stream", "ram"))
    assert all(torch.equal(a[name], b[name]) for name in a | b)


def test_another_model_is_refused_before_anything_is_written(go, make_cache, tmp_path):
    narrow = make_cache(tmp_path / "narrow.zarr", pooled=6)
    with pytest.raises(CacheMismatch, match="another `pooled`"):
        go("run", narrow)
    assert not (tmp_path / "run").exists()


def test_a_pipeline_names_it_by_its_table():
    table = {"source": "digits", "model": "timm:x"}
    pipeline = Pipeline.parse(
        {
            "extract": {"new": table, "old": table},
            "train": {"caches": ["new"], "objectives": ["knn"], "controls": False, "num_labels": [4]},
            "options": {"data": {"replay": "old"}},
        }
    )
    places = {"new": Path("a"), "old": Path("b")}
    ((_, request),) = pipeline.requests(places)
    assert request.options == {"data": {"replay": Path("b")}}
    elsewhere = pipeline.model_copy(update={"options": {"data": {"replay": "c.zarr"}}})
    ((_, request),) = elsewhere.requests(places)
    assert request.options == {"data": {"replay": "c.zarr"}}
