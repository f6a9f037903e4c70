"""Labels of a cache are replaced without computing a sample again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import featcache as fc
from featcache.cache.reader import CacheReader
from featcache.errors import LabelError, TrainError

OFF = {"cv": "off"}
"""No folds, where a test is not about the estimate."""
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def cache(make_cache, tmp_path) -> Path:
    return make_cache(tmp_path / "c.zarr", text=True)


def table(folder: Path, labels: dict[str, str], name: str = "mine.csv") -> Path:
    lines = [f"{key},{label}" for key, label in labels.items()]
    (folder / name).write_text("\n".join(["id,label", *lines]) + "\n")
    return folder / name


def two_classes(count: int = 12) -> dict[str, str]:
    return {f"train/{row:03}.png": "even" if row % 2 else "odd" for row in range(count)}


def features(cache: Path) -> dict[Path, int]:
    return {file: file.stat().st_mtime_ns for file in cache.rglob("*") if "labels" not in file.parts}


def test_labels_are_replaced_and_nothing_else_is_touched(cache, featcache, tmp_path) -> None:
    before = features(cache)
    said = featcache("label", cache, "--from", table(tmp_path, two_classes())).output
    assert "train: 12 of 30 labelled: even 6, odd 6" in said
    assert features(cache) == before
    opened = CacheReader.open(cache)
    assert opened.class_names == ("even", "odd")
    assert opened.split("train").labels.tolist() == [1, 0] * 6 + [-1] * 18
    assert (opened.split("test").labels == -1).all()
    assert opened.class_text is None, "no class of these has an embedding"
    assert "warning: class names are not used: embed them with --class-text" in said
    assert sorted(file.name for file in (cache / "labels").iterdir()) == sorted(
        [
            "zarr.json",
            json.loads((cache / "labels" / "zarr.json").read_text())["attributes"]["featcache"]["table"],
        ]
    )


def test_an_update_keeps_names_and_their_embeddings(cache, tmp_path) -> None:
    found = fc.label(cache, table(tmp_path, {"train/000.png": "owl"}), update=True)
    assert found.classes == ("cat", "dog", "owl")
    assert found["train"].labels[:3].tolist() == [2, 1, 2]
    assert found.class_text is not None


def test_names_and_numbers_of_a_split_are_of_the_same_time(cache, tmp_path) -> None:
    split = fc.Cache.open(cache)["train"]
    before = [split.class_names[c] for c in split.labels]
    fc.label(cache, table(tmp_path, two_classes()))
    assert [split.class_names[c] for c in split.labels] == before


def test_a_label_that_fits_nothing_changes_nothing(cache, featcache, tmp_path) -> None:
    before = CacheReader.open(cache).labels.digest()
    refused = featcache("label", cache, "--from", table(tmp_path, {"who.png": "a"}), code=1).output
    assert "who.png" in refused
    assert "--ignore-unmatched" in refused
    assert CacheReader.open(cache).labels.digest() == before


@pytest.mark.parametrize("objective", ["linear", "twinturbo"])
def test_training_on_own_labels_without_a_test_split(make_cache, tmp_path, objective) -> None:
    path = make_cache(tmp_path / "flat.zarr", splits={"train": [-1] * 30})
    labels = table(tmp_path, two_classes(), "labels.csv")
    run = fc.train(path, objective, labels=labels, out=tmp_path / "run", options={"optim.steps": 3, "cv": 3})
    result = run.figures
    assert "test" not in result
    assert result["num_labels"] == 12
    estimate = result["estimate"]
    assert 0 <= estimate["low"] <= estimate["high"] <= 1
    assert "12 labels" in estimate["sentence"]
    assert (tmp_path / "run" / "held_out.safetensors").is_file()
    assert run.predict(path).classes == ("even", "odd")
    assert "%" in repr(run)
    assert (CacheReader.open(path).split("train").labels == -1).all(), "the cache keeps its own labels"


def test_labels_belong_to_the_configuration(cache, tmp_path) -> None:
    labels = table(tmp_path, two_classes())
    fc.train(cache, "linear", labels=labels, out=tmp_path / "run", options=OFF)
    fc.train(cache, "linear", labels=labels, out=tmp_path / "run", options=OFF, resume=True)
    corrected = table(tmp_path, two_classes() | {"train/000.png": "even"})
    with pytest.raises(TrainError, match="`labels` differs"):
        fc.train(cache, "linear", labels=corrected, out=tmp_path / "run", options=OFF, resume=True)


def test_own_labels_of_the_test_split_test(cache, tmp_path) -> None:
    test = {f"test/{row:03}.png": "even" if row % 2 else "odd" for row in range(6)}
    result = fc.train(
        cache, "linear", labels=table(tmp_path, two_classes() | test), out=tmp_path / "run"
    ).figures
    assert result["test"]["samples"] == 6
    assert "estimate" in result, "all labels were used"
    drawn = fc.train(cache, "linear", labels_per_class=2, out=tmp_path / "drawn").figures
    assert "estimate" not in drawn


def test_samples_set_aside_are_not_trained_on(cache, tmp_path) -> None:
    run = fc.train(cache, "linear", holdout=0.4, out=tmp_path / "run", options=OFF | {"data.test": "none"})
    record = json.loads((tmp_path / "run" / "labels.json").read_text())
    figures = run.figures["holdout"]
    assert figures["samples"] + len(record["rows"]) == 30
    assert figures["low"] <= figures["accuracy"] <= figures["high"]
    assert "test" not in run.figures
    again = fc.train(
        cache, "linear", holdout=0.4, seed=5, out=tmp_path / "again", options=OFF | {"data.test": "none"}
    )
    assert again.figures["holdout"]["samples"] == figures["samples"]
    for share in (1.0, 0.001):
        with pytest.raises(TrainError, match="holdout"):
            fc.train(cache, "linear", holdout=share, out=tmp_path / "none")


def test_one_label_per_class_and_one_class(make_cache, tmp_path) -> None:
    path = make_cache(tmp_path / "flat.zarr", splits={"train": [-1] * 30})
    ones = table(tmp_path, {"train/000.png": "a", "train/001.png": "b"})
    run = fc.train(path, "linear", labels=ones, out=tmp_path / "run")
    assert run.figures["estimate"]["accuracy"] is None
    with pytest.raises(TrainError, match="not known"):
        _ = run.accuracy
    single = table(tmp_path, {"train/000.png": "a", "train/001.png": "a"}, "one.csv")
    with pytest.raises(TrainError, match="only one class"):
        fc.train(path, "linear", labels=single, out=tmp_path / "one")


def test_a_cache_without_any_label_or_class(make_cache, tmp_path, featcache) -> None:
    path = make_cache(tmp_path / "flat.zarr", splits={"train": [-1] * 30}, classes=())
    for objective in ("linear", "twinturbo"):
        refused = featcache("train", path, "--objective", objective, "--out", tmp_path / "run", code=1).output
        assert "no labels" in refused
        assert "--labels" in refused
    assert not (tmp_path / "run").exists()


def test_a_class_that_only_test_samples_have_is_said(cache, tmp_path, capsys) -> None:
    labels = two_classes() | {"test/000.png": "odd", "test/001.png": "never"}
    fc.train(cache, "linear", labels=table(tmp_path, labels), out=tmp_path / "run", options=OFF)
    assert "`never`" in capsys.readouterr().err


def test_labels_that_suggest_chose_are_remembered_until_others_replace_them(cache, tmp_path) -> None:
    (tmp_path / "next.csv").write_text("id,label,chosen_by\ntrain/000.png,a,cover\ntrain/001.png,b,\n")
    plain = table(tmp_path, {"train/000.png": "a", "train/001.png": "b"})
    assert [fc.label(cache, file).labels.chosen for file in (plain, tmp_path / "next.csv", plain)] == [
        0,
        1,
        0,
    ]
    for _ in range(2):
        assert fc.label(cache, tmp_path / "next.csv", update=True).labels.chosen == 1
    assert fc.label(cache, plain, update=True).labels.chosen == 1


def test_every_row_labelled(cache, tmp_path) -> None:
    every = {f"train/{row:03}.png": ("a", "b")[row % 2] for row in range(30)}
    result = fc.train(
        cache, "linear", labels=table(tmp_path, every), out=tmp_path / "run", options=OFF
    ).figures
    assert result["num_labels"] == 30


def test_names_that_a_text_tower_could_embed_are_spoken_of(clip, featcache, tmp_path) -> None:
    """Also where no sample had a label at the extraction."""
    np.save(tmp_path / "images.npy", np.zeros((3, 8, 8, 3), np.uint8))
    cache = fc.extract(tmp_path / "images.npy", clip, tmp_path / "c.zarr", tokens="pooled", num_workers=0)
    mine = table(tmp_path, dict(zip(cache["train"].ids, "ab", strict=False)))
    assert "--class-text" in featcache("label", cache.path, "--from", mine).output
    said = featcache("label", cache.path, "--from", mine, "--class-text").output
    assert "--class-text" not in said
    assert fc.Cache.open(cache.path).class_text is not None


def test_extracting_again_with_labels_replaces_mine_and_says_so(photos, frozen, featcache, tmp_path) -> None:
    command = ["extract", photos, "--model", frozen("tiny"), "--out", tmp_path / "c.zarr", "--num-workers", 0]
    assert "replaced" not in featcache(*command).output
    names = CacheReader.open(tmp_path / "c.zarr").class_names
    first = CacheReader.open(tmp_path / "c.zarr").split("train").ids[0]
    (tmp_path / "mine.csv").write_text(f"id,label,split\n{first},emu,train\n")
    fc.label(tmp_path / "c.zarr", tmp_path / "mine.csv", update=True)
    assert "labels of 1 samples in the cache replaced" in featcache(*command).output
    assert CacheReader.open(tmp_path / "c.zarr").class_names == names


def test_extracting_again_without_labels_keeps_mine(tmp_path) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("".join(f"number {row}\n" for row in range(6)))
    images = tmp_path / "images.npy"
    np.save(images, np.zeros((6, 8, 8, 3), np.uint8))
    cache = fc.extract(images, "timm:test_vit/random", tmp_path / "c.zarr", num_workers=0)
    names = {cache["train"].ids[row]: ("a", "b")[row % 2] for row in range(6)}
    fc.label(cache, table(tmp_path, names))
    again = fc.extract(images, "timm:test_vit/random", tmp_path / "c.zarr", num_workers=0)
    assert again.classes == ("a", "b")
    with pytest.raises(LabelError, match="nothing"):
        fc.label(cache, tmp_path / "nothing.csv")
