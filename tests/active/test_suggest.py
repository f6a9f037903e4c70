"""`featcache suggest` from a cache or a run to a file, which is filled in and read as labels."""

from __future__ import annotations

import csv
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import featcache as fc
from featcache.active.curve import measure
from featcache.cache.reader import CacheReader
from featcache.errors import ConfigError, TrainError
from featcache.labels.table import read_labels

pytestmark = pytest.mark.usefixtures("short_curves")
CLASSES = ("cat", "dog", "owl")


@pytest.fixture(scope="module")
def unlabelled(make_cache: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """90 training rows without labels, of which two failed."""
    path = tmp_path_factory.mktemp("suggest") / "c.zarr"
    return make_cache(path, splits={"train": [-1] * 90, "test": [0, 1, 2]}, failed={"train": [4, 7]})


@pytest.fixture
def short_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Curves of one repeat, since their fits take most of the time."""
    monkeypatch.setattr("featcache.stages.suggest.measure", functools.partial(measure, repeats=1))


def label(path: Path, *, skip: int = 0) -> set[str]:
    """Fill in the labels of a table as a person would, and return the ids."""
    with path.open() as file:
        lines = list(csv.DictReader(file))
    for line in lines[skip:]:
        line["label"] = CLASSES[int(line["id"][-7:-4]) % 3]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, lines[0])
        writer.writeheader()
        writer.writerows(lines)
    return {line["id"] for line in lines[skip:]}


def test_from_no_labels_to_a_run_and_on(
    unlabelled: Path, tmp_path: Path, featcache: Callable[..., Any]
) -> None:
    first, second, third = (tmp_path / f"{name}.csv" for name in ("first", "second", "third"))
    said = featcache("suggest", unlabelled, "--n", 25, "--out", first).output
    assert "0 labels" in said
    with first.open() as file:
        lines = list(csv.DictReader(file))
    assert len({line["id"] for line in lines}) == 25
    assert {line["chosen_by"] for line in lines} == {"cover"}
    assert not {"train/004.png", "train/007.png"} & {line["id"] for line in lines}
    known = label(first, skip=1)

    cache = CacheReader.open(unlabelled)
    read = read_labels(first, cache).table
    assert (int((read.of("train", 90) >= 0).sum()), read.chosen) == (24, 24)

    found = fc.suggest(unlabelled, 20, labels=first, out=second)
    assert found.forecast.labels == 24
    assert found.forecast.gain_interval is not None
    assert not known & {*found.ids}
    assert {sample.chosen_by for sample in found} == {"cover uncertain"}
    assert all(sample.prediction in CLASSES and sample.second in CLASSES for sample in found)

    run = fc.train(unlabelled, "linear", labels=first, out=tmp_path / "run", options={"cv": 2})
    after = fc.suggest(run, 20)
    assert not known & {*after.ids}
    assert after.forecast.labels == 24
    more = label(second)
    shown = json.loads(
        featcache("suggest", run.path, "--labels", second, "--out", third, "--n", 100, "--json").output
    )
    rest = {f"train/{row:03}.png" for row in range(90) if row not in (4, 7)} - known - more
    assert {sample["id"] for sample in shown["samples"]} == rest
    assert shown["forecast"]["labels"] == len(known | more)
    assert shown["notes"]
    assert "near-identical" not in str(shown["notes"]), "there are no more"

    label(third)
    with pytest.raises(TrainError, match="left to label"):
        fc.suggest(run, labels=[second, third])


def test_random_samples_are_not_marked_as_chosen(unlabelled: Path, tmp_path: Path) -> None:
    out = tmp_path / "next.csv"
    found = fc.suggest(unlabelled, 30, strategy="random", seed=3, out=out)
    assert found.ids == fc.suggest(unlabelled, 30, strategy="random", seed=3).ids
    assert found.ids != fc.suggest(unlabelled, 30, strategy="random", seed=4).ids
    label(out)
    assert read_labels(out, CacheReader.open(unlabelled)).table.chosen == 0


def test_a_moved_cache_is_asked_for(make_cache: Callable[..., Path], tmp_path: Path) -> None:
    cache = make_cache(tmp_path / "c.zarr")
    run = fc.train(cache, "linear", num_labels=6, out=tmp_path / "run")
    here = fc.suggest(run, 4)
    cache.rename(tmp_path / "moved.zarr")
    with pytest.raises(ConfigError, match="not where it was") as caught:
        fc.suggest(run, 4)
    assert "--cache" in caught.value.text(command_line=True)
    assert fc.suggest(run, 4, cache=tmp_path / "moved.zarr") == here
    assert here.forecast.gain is None
    assert str(here).count("\n") == 5


def test_samples_set_aside_are_not_suggested(make_cache: Callable[..., Path], tmp_path: Path) -> None:
    cache = make_cache(tmp_path / "c.zarr", splits={"train": [row % 3 for row in range(12)]})
    options = {"cv": "off"}
    run = fc.train(cache, "linear", holdout=0.5, options=options, out=tmp_path / "run", progress=False)
    assert run.aside
    with pytest.raises(TrainError, match="left to label"):
        fc.suggest(run, 4)


def test_nothing_is_written_when_something_is_wrong(unlabelled: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "next.csv"
    with pytest.raises(ConfigError, match="batch"):
        fc.suggest(unlabelled, 0, out=out)
    with pytest.raises(ConfigError, match="batch"):
        fc.suggest(unlabelled, strategy="typical", out=out)  # type: ignore[arg-type]
    with pytest.raises(fc.FeatcacheError):
        fc.suggest(unlabelled, split="trian", out=out)
    with pytest.raises(fc.FeatcacheError):
        fc.suggest(tmp_path / "nothing.zarr", out=out)
    assert not out.parent.exists()


def test_a_kill_while_writing_leaves_no_half_a_table(
    unlabelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "next.csv"
    before = fc.suggest(unlabelled, 3, out=out)
    content = out.read_bytes()

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("os.replace", killed)
        with pytest.raises(KeyboardInterrupt):
            fc.suggest(unlabelled, 5, out=out)
    assert out.read_bytes() == content
    assert len(before) == 3
    assert len(fc.suggest(unlabelled, 5, out=out)) == 5
    assert np.genfromtxt(out, delimiter=",", dtype=str, usecols=0).shape == (6,)
