"""A training refuses a labelled sample that is a test sample too, unless it is told not to."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import featcache as fc
from featcache.errors import TrainError
from tests.checking.conftest import blobs

QUICK = {"progress": False}


@pytest.fixture(scope="module")
def leaky(write: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Test 1 and 2 are train 5 and 6; test 2 has no label."""
    (x, label), (y, truth) = blobs(30, 2, seed=0), blobs(10, 2, seed=1)
    truth = truth.copy()
    y[1], y[2], truth[2] = x[5], x[6], -1
    splits = {"train": (x, label), "test": (y, truth)}
    return write(tmp_path_factory.mktemp("leak") / "c.zarr", splits, ("cat", "dog"))


def test_a_leak_is_named(leaky: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainError) as raised:
        fc.train(leaky, "knn", out=tmp_path / "run", **QUICK)
    assert raised.value.got == "tr005.png = te001.png"
    assert "allow_leaks" in str(raised.value.hint)
    assert not (tmp_path / "run").exists()


def test_a_leak_may_be_accepted(leaky: Path, tmp_path: Path) -> None:
    run = fc.train(leaky, "knn", out=tmp_path / "run", options={"data.allow_leaks": True}, **QUICK)
    assert run.figures["test"]["samples"] == 9


def test_a_row_without_a_label_is_no_leak(leaky: Path, tmp_path: Path) -> None:
    cache, own = fc.Cache.open(leaky), tmp_path / "labels.csv"
    ids = {*cache["train"].ids, *cache["test"].ids} - {"tr005.png", "te002.png"}
    own.write_text("id,label\n" + "".join(f"{name},{int(name[2:5]) % 2}\n" for name in sorted(ids)))
    run = fc.train(leaky, "knn", labels=own, out=tmp_path / "run", **QUICK)
    assert run.figures["test"]["samples"] == 9
    own.write_text(own.read_text() + "tr005.png,1\n")
    with pytest.raises(TrainError, match=r"tr005\.png = te001\.png"):
        fc.train(leaky, "knn", labels=own, out=tmp_path / "again", **QUICK)


def test_a_run_from_before_an_option_is_resumed(
    leaky: Path, tmp_path: Path, edit_run: Callable[..., None]
) -> None:
    """Its configuration lacks the option, which then has its default value."""
    asked = {"data.test": "none", "cv": "off"}
    run = fc.train(leaky, "knn", out=tmp_path / "run", options=asked, **QUICK)
    config = json.loads((run.path / "config.json").read_text())
    del config["options"]["data"]["token_subset"], config["options"]["objective"]["temperature"]
    edit_run(run.path, "config.json", options=config["options"])
    assert fc.train(leaky, "knn", out=run.path, options=asked, resume=True, **QUICK).path == run.path
    with pytest.raises(TrainError, match="token_subset"):
        fc.train(
            leaky, "knn", out=run.path, options={**asked, "data.token_subset": 0.5}, resume=True, **QUICK
        )
