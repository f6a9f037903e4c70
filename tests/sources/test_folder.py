"""Folders of images."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from featcache.errors import SampleError, SourceError
from featcache.sources import open_source
from featcache.sources.base import digest_samples


def tree(make, *names):
    for name in names:
        make.file(f"set/{name}")
    return str(make.root / "set")


def listed(splits):
    return {
        name: list(zip(source.ids, source.labels.tolist(), strict=True)) for name, source in splits.items()
    }


def test_splits_and_the_union_of_their_classes(make):
    spec = tree(
        make, "test/emu/1.png", "train/cat/2.png", "train/dog/1.jpg", "train/cat/1.png", "val/dog/a/b.PNG"
    )
    splits = open_source(spec)
    assert list(splits) == ["train", "validation", "test"]
    assert listed(splits) == {
        "train": [("cat/1.png", 0), ("cat/2.png", 0), ("dog/1.jpg", 1)],
        "validation": [("dog/a/b.PNG", 1)],
        "test": [("emu/1.png", 2)],
    }
    assert {source.class_names for source in splits.values()} == {("cat", "dog", "emu")}


def test_one_split_opened_by_itself_has_the_same_ids(make):
    spec = tree(make, "train/cat/1.png", "test/cat/1.png")
    assert list(open_source(f"{spec}/train")["train"].ids) == list(open_source(spec)["train"].ids)


def test_flat_is_unlabelled(make):
    splits = open_source(tree(make, "b.png", "a.png", ".hidden.png", "notes.txt"))
    assert listed(splits) == {"train": [("a.png", -1), ("b.png", -1)]}
    assert splits["train"].class_names == ()


def test_an_unlabelled_test_split(make):
    splits = open_source(tree(make, "train/cat/1.png", "test/1.png"))
    assert listed(splits) == {"train": [("cat/1.png", 0)], "test": [("1.png", -1)]}


def test_images_beside_class_folders_are_unlabelled(make):
    assert listed(open_source(tree(make, "cat/1.png", "1.png"))) == {
        "train": [("1.png", -1), ("cat/1.png", 0)]
    }


def test_a_further_split(make):
    spec = tree(make, "train/cat/1.png", "extra/cat/1.png")
    make.file("set/annotations/list.json", b"{}")
    assert list(open_source(spec)) == ["train", "extra"]


def test_train_may_be_a_class(make):
    splits = open_source(tree(make, "bus/1.png", "train/1.png"))
    assert listed(splits) == {"train": [("bus/1.png", 0), ("train/1.png", 1)]}


def test_loose_images_in_train_never_make_test_images_training_rows(make):
    splits = open_source(tree(make, "train/cat/1.png", "train/2.png", "test/cat/3.png", "extra/4.png"))
    assert listed(splits) == {
        "train": [("2.png", -1), ("cat/1.png", 0)],
        "test": [("cat/3.png", 0)],
        "extra": [("4.png", -1)],
    }


def test_numeric_class_names_are_names(make):
    splits = open_source(tree(make, "0/a.png", "10/a.png", "2/a.png"))
    assert splits["train"].class_names == ("0", "10", "2")
    assert splits["train"].labels.tolist() == [0, 1, 2]


def test_a_link_back_up_does_not_loop(make):
    spec = tree(make, "cat/1.png")
    Path(spec, "cat", "up").symlink_to(spec)
    assert list(open_source(spec)["train"].ids) == ["cat/1.png"]


def test_names_that_are_not_utf8(make):
    spec = tree(make, "cat/1.png")
    os.rename(f"{spec}/cat/1.png", os.fsencode(f"{spec}/cat/") + b"\xff.png")
    source = open_source(spec)["train"]
    assert source.ids[0].encode().decode() == "cat/\\udcff.png"
    assert source[0].size == (2, 2)
    assert len(digest_samples(source)) == 64


def test_unreadable_images_keep_their_row(make):
    spec = tree(make, "cat/1.png")
    make.file("set/cat/2.jpg", b"")
    make.file("set/dog/3.png", b"text")
    source = open_source(spec)["train"]
    assert source.labels.tolist() == [0, 0, 1]
    with pytest.raises(SampleError, match=r"(?s)empty.*cat/2.jpg"):
        source[1]
    with pytest.raises(SampleError, match=r"(?s)not an image.*dog/3.png: 4 bytes"):
        source[2]
    Path(spec, "cat/1.png").unlink()
    with pytest.raises(SampleError, match=r"(?s)cannot be read.*got: *cat/1.png: No such file") as caught:
        source[0]
    assert str(make.root) not in str(caught.value)


def test_an_empty_split(make):
    spec = tree(make, "train/cat/1.png")
    Path(spec, "val").mkdir()
    with pytest.raises(SourceError, match=r"(?s)split `validation` holds no samples"):
        open_source(spec)


def test_two_folders_for_one_split(make):
    with pytest.raises(SourceError, match=r"(?s)split `validation`.*dev/ and val/"):
        open_source(tree(make, "dev/cat/1.png", "val/cat/1.png"))


def test_no_label_column(make):
    with pytest.raises(SourceError, match=r"(?s)column.*label_column='age'"):
        open_source(tree(make, "cat/1.png"), label_column="age")


def test_folders_for_unlabelled_images(make):
    splits = open_source(
        tree(make, "cat/1.png", "unsorted/2.png", "Unlabeled/3.png", "-1/4.png", "dog /5.png")
    )
    assert splits["train"].class_names == ("cat", "dog")
    assert dict(listed(splits)["train"]) == {
        "-1/4.png": -1,
        "Unlabeled/3.png": -1,
        "cat/1.png": 0,
        "dog /5.png": 1,
        "unsorted/2.png": -1,
    }


def test_a_folder_of_formats_that_are_not_read(make):
    make.file("set/1.HEIC", b"heic")
    with pytest.raises(SourceError, match=r"(?s)no format fits.*\.heic \(1\)"):
        open_source(str(make.root / "set"))
