"""`featcache check` of a cache and of a run, and what becomes of its table."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import featcache as fc
from featcache.errors import CacheError, ConfigError
from tests.checking.conftest import blobs

CLASSES = ("cat", "Dog", "dog ", "owl")


@pytest.fixture(scope="module")
def cache(write: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 and 12 rows of cats and dogs, and one owl; not to be changed.

    Train 0 is test 0 with another label, train 3 is test 3; train 5 and 7 are the same; train 9 is wrong;
    train 30 has failed.
    """
    (x, label), (y, truth) = blobs(60, 2, seed=0), blobs(12, 2, seed=1)
    label, truth = label.copy(), truth.copy()
    y[0], truth[0], y[3] = x[0], 1, x[3] * 1.0001
    x[7] = x[5]
    label[9] = 0
    label[11] = 3
    splits = {"train": (x, label), "test": (y, truth)}
    return write(tmp_path_factory.mktemp("check") / "c.zarr", splits, CLASSES, {"train": [30]})


def test_everything_is_found(cache: Path) -> None:
    found = fc.check(cache, progress=False)
    assert (found.samples, found.labelled) == (71, 71)
    names = [{f"{s.split}/{s.id}" for s in group.samples} for group in found.groups]
    assert {"train/tr005.png", "train/tr007.png"} in names
    assert [{s.id for s in group.samples} for group in found.contradictory] == [{"te000.png", "tr000.png"}]
    assert {s.id for group in found.across for s in group.samples} == {
        "te000.png", "tr000.png", "te003.png", "tr003.png",
    }  # fmt: skip
    assert len(names) == 3
    assert all(group.same for group in found.groups)
    assert [(row.split, row.id, row.reason) for row in found.failed] == [
        ("train", "tr030.png", "truncated JPEG")
    ]
    assert found.few == {"dog ": 0, "owl": 1}
    assert found.alike == (("Dog", "dog "),)
    doubtful = {one.id: (one.label, one.suggested) for one in found.doubtful}
    assert doubtful["tr009.png"] == ("cat", "Dog")
    assert doubtful.keys() <= {"tr009.png", "te000.png", "tr000.png"}
    assert found.judged == 70


def test_the_table_corrects_the_labels(cache: Path, featcache: Callable[..., object], tmp_path: Path) -> None:
    table, labels = tmp_path / "doubtful.csv", tmp_path / "labels.csv"
    printed = featcache("check", cache, "--out", table, "--json")
    content = json.loads(printed.stdout)  # type: ignore[attr-defined]
    assert content["few_labels"] == {"dog ": 0, "owl": 1}
    split = fc.Cache.open(cache)["train"]
    names = [split.class_names[c] for c in split.labels]
    labels.write_text("id,label\n" + "".join(f"{i},{n}\n" for i, n in zip(split.ids, names, strict=True)))
    wrong = "train,tr009.png,cat,Dog,"
    assert wrong in table.read_text()
    table.write_text(table.read_text().replace(wrong, "train,tr009.png,Dog,Dog,"))
    again = fc.check(cache, labels=[labels, table], progress=False)
    assert "tr009.png" not in {one.id for one in again.doubtful}
    assert "Findings" in repr(again)
    featcache("check", cache, "--out", table)  # an earlier table is replaced
    assert wrong in table.read_text()


def test_a_table_is_written_over_nothing_else(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("id,label\n")
    with pytest.raises(ConfigError):
        fc.check(cache, out=tmp_path / "mine.csv", progress=False)
    with pytest.raises(ConfigError):
        fc.check(cache, near=-0.1, progress=False)
    assert (tmp_path / "mine.csv").read_text() == "id,label\n"


def test_few_labels_are_not_judged(cache: Path, featcache: Callable[..., object], tmp_path: Path) -> None:
    (tmp_path / "few.csv").write_text("id,label\ntr001.png,a\ntr002.png,b\n")
    found = fc.check(cache, labels=tmp_path / "few.csv", progress=False)
    assert (found.labelled, found.judged, found.doubtful) == (2, 0, ())
    assert len(found.notes) == 1
    assert found.few == {"a": 1, "b": 1}
    assert len(found.groups) == 3
    featcache("check", cache, "--labels", tmp_path / "few.csv")


def test_a_run_is_judged_by_its_own_folds(
    cache: Path, write: Callable[..., Path], tmp_path: Path, edit_run: Callable[..., None]
) -> None:
    split = fc.Cache.open(cache)["train"]
    lines = [f"{split.ids[row]},{'x' if row % 2 else 'y'}" for row in range(30)]
    lines[4] = f"{split.ids[4]},x"  # a wrong one
    (tmp_path / "mine.csv").write_text("id,label\n" + "\n".join(lines) + "\n")
    run = fc.train(cache, "knn", labels=tmp_path / "mine.csv", out=tmp_path / "run", progress=False)
    found = fc.check(run, progress=False)
    assert found.judged == 30
    assert "tr004.png" in {one.id for one in found.doubtful}
    assert {one.label for one in found.doubtful} <= {"x", "y"}
    more = write(tmp_path / "more", {"train": blobs(61, 2, seed=0), "test": blobs(12, 2, seed=1)}, CLASSES)
    for place, why in ((more, "another cache"), (tmp_path / "gone", "is gone")):
        edit_run(run.path, "environment.json", cache=str(place))
        with pytest.raises(CacheError, match=why):
            fc.check(run, progress=False)


def test_unlabelled_samples_are_compared(write: Callable[..., Path], tmp_path: Path) -> None:
    x, _ = blobs(20, 2, seed=3)
    x[4] = x[2]
    found = fc.check(write(tmp_path / "c.zarr", {"train": (x, [-1] * 20)}, ()), progress=False)
    assert [[s.id for s in group.samples] for group in found.groups] == [["tr002.png", "tr004.png"]]
    assert np.isclose(found.groups[0].cosine, 1)
    assert found.contradictory == ()
