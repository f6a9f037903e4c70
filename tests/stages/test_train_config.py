"""`train --config`: a run's configuration makes the same run again, and what is given beside it wins."""

import pytest

import featcache as fc
from featcache.runs.run import RunFolder

pytestmark = pytest.mark.usefixtures("one_thread")


def config(folder):
    return RunFolder(folder).config()


def test_other_labels_than_those_of_the_configuration_are_said(cache, featcache, tmp_path):
    (tmp_path / "mine.csv").write_text(
        "id,label\n" + "".join(f"train/{r:03}.png,{'ab'[r % 2]}\n" for r in range(8))
    )
    asked = ("--objective", "linear", "--set", "cv=off", "--out")
    featcache("train", cache, "--labels", tmp_path / "mine.csv", *asked, tmp_path / "first")
    repeat = ("train", cache, "--config", tmp_path / "first" / "config.json", "--out")
    same = featcache(*repeat, tmp_path / "same", "--labels", tmp_path / "mine.csv")
    assert "the labels are not those" not in same.stderr
    assert "the labels are not those" in featcache(*repeat, tmp_path / "other").stderr


def test_a_configuration_makes_the_same_run_again(cache, featcache, tmp_path):
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    asked = ("--objective", "linear", "--num-labels", 6, "--seed", 3, "--set", "objective.C=2.0")
    featcache("train", cache, *asked, "--out", first, "--device", "cpu")
    repeated = ("--config", first / "config.json", "--device", "cpu")
    featcache("train", cache, *repeated, "--out", second)
    assert config(second) == config(first)
    other = ("--objective", "knn", "--labels-per-class", 1, "--set", "cv=2", "--seed", 4)
    featcache("train", cache, *repeated, *other, "--out", third)
    changed = config(third)
    assert [changed[key] for key in ("objective", "labels_per_class", "num_labels", "seed")] == [
        "knn",
        1,
        None,
        4,
    ]
    assert changed["options"]["cv"] == 2
    assert "C" not in changed["options"]["objective"]
    in_python = fc.train(
        cache,
        "linear",
        num_labels=6,
        seed=3,
        options=config(first),
        out=tmp_path / "p",
        device="cpu",
        progress=False,
    )
    assert in_python.config() == fc.Run.open(first).config()
    missing = featcache("train", cache, "--config", tmp_path / "none.json", "--out", tmp_path / "x", code=1)
    assert "none.json" in missing.stderr
