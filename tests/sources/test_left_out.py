"""No sample and no class vanishes: it is read, or it is counted and named."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from featcache.extraction.understood import understand
from featcache.sources import open_source


@pytest.fixture
def look(make):
    """Writes images below `set`, and returns its splits and the warnings about it."""

    def run(*names):
        for name in names:
            make.file(f"set/{name}")
        spec = str(make.root / "set")
        splits = open_source(spec)
        return splits, "\n".join(understand(spec, splits, splits).warnings)

    return run


IMAGES = ("cat/1.png", "dog/2.png")


@pytest.mark.parametrize(
    "name",
    [
        "cat/.DS_Store",
        "cat/._1.png",
        "cat/Thumbs.db",
        "cat/desktop.ini",
        "cat/1.png.json",
        "cat/1.xmp",
        "cat/1.AAE",
        "__MACOSX/cat/._1.png",
        "README.md",
        ".git/x.png",
    ],
)
def test_companions_and_sidecars_are_no_samples_and_no_news(look, name):
    splits, said = look(*IMAGES, name)
    assert list(splits["train"].ids) == [*IMAGES]
    assert said == ""


@pytest.mark.parametrize(
    "name",
    [
        ".hidden/3.png",
        "cat/.3.png",
        ".ipynb_checkpoints/1.png",
        "cat/@eaDir/1.png/THUMB.jpg",
        "__MACOSX/1.png",
    ],
)
def test_images_set_aside_are_named(look, name):
    splits, said = look(*IMAGES, name)
    assert list(splits["train"].ids) == [*IMAGES]
    assert "1 image" in said
    assert name in said


@pytest.mark.parametrize(
    "ending", ["heic", "HEIF", "svg", "raw", "dng", "psd", "mp4", "pdf", "zip", "newone"]
)
def test_what_is_not_read_is_counted_by_its_ending(look, ending):
    assert f".{ending.lower()} (2)" in look(*IMAGES, f"cat/3.{ending}", f"cat/4.{ending}")[1]


def test_files_without_an_ending_are_counted(look):
    assert "(1)" in look(*IMAGES, "cat/IMG_0001")[1]


def test_endings_in_any_case_and_with_space_behind_are_images(look):
    names = ["cat/1.JPEG", "cat/2.Jpg", "cat/3.png ", "cat/4.AVIF"]
    splits, said = look(*names, "dog/1.png")
    assert list(splits["train"].ids) == [*names, "dog/1.png"]
    assert said == ""


def test_a_class_without_an_image_is_named(look, make):
    for name in ("empty", "notes/deep"):
        (make.root / "set" / name).mkdir(parents=True)
    make.file("set/notes/deep/a.txt")
    said = look(*IMAGES, "bird/1.heic")[1]
    assert "bird, empty, notes" in said


def test_a_folder_beside_the_splits_without_an_image_is_named(look):
    said = look("train/cat/1.png", "train/dog/1.png", "test/cat/2.png", "extra/2.heic", "3.png")[1]
    assert "extra" in said
    assert "3.png" in said


def test_links_to_folders_are_followed_each_time(look, make):
    for name in IMAGES:
        make.file(f"store/{name}")
    for split, cls in (("train", "cat"), ("train", "dog"), ("test", "cat")):
        (make.root / "set" / split).mkdir(parents=True, exist_ok=True)
        (make.root / "set" / split / cls).symlink_to(make.root / "store" / cls)
    (make.root / "set" / "train" / "kitten").symlink_to("cat")
    (make.root / "set" / "train" / "gone").symlink_to(make.root / "store" / "gone")
    (make.root / "set" / "train" / "up").symlink_to(make.root)
    splits, said = look()
    assert list(splits["train"].ids) == ["cat/1.png", "dog/2.png", "kitten/1.png"]
    assert list(splits["test"].ids) == ["cat/1.png"]
    assert "train/gone" in said
    assert "up" in said


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("train2017/1.png", "val2017/2.png"), "rename"),
        (("images/train/1.png", "images/val/2.png"), "set/images"),
        (("Data/CLS/train/cat/1.png", "Data/CLS/val/dog/2.png"), "set/Data/CLS"),
    ],
)
def test_folders_that_look_like_splits_are_asked_about(look, names, said):
    assert any("look like splits" in line and said in line for line in look(*names)[1].splitlines())


def test_classes_with_the_name_of_a_split_within_are_classes(look):
    assert "look like splits" not in look("test tube/1.png", "model train/2.png", "owl/3.png")[1]


def test_annotations_beside_the_images_are_named(look, make):
    make.file("set/val/val_annotations.txt", b"1.JPEG\tcat\n")
    assert "val/val_annotations.txt" in look("train/cat/images/1.JPEG", "val/images/1.JPEG")[1]


def test_frames_after_the_first_are_named(look, make):
    frames = [Image.new("L", (4, 4), shade) for shade in (0, 255)]
    make.file("set/cat/stack.tif", make.png(frames[0], "TIFF", save_all=True, append_images=frames[1:]))
    make.file("set/cat/one.tif", make.png(frames[0], "TIFF"))
    said = look(*IMAGES)[1]
    assert "cat/stack.tif" in said
    assert "one.tif" not in said


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        (("caf\u00e9", "cafe\u0301"), 1),
        (("dog", "dog "), 1),
        (("dog", "Dog"), 2),
        (("fish", "\ufb01sh"), 2),
        (("polar bear", "polar\u00a0bear"), 2),
        (("polar bear", "polar  bear"), 2),
        (("cat", "cat\u200b"), 2),
    ],
)
def test_names_alike_are_one_class_or_a_question(look, names, classes):
    splits, said = look(*(f"{name}/{row}.png" for row, name in enumerate(names)), "owl/1.png")
    assert len(splits["train"].class_names) == classes + 1
    assert names[0] in said


def test_a_list_finds_names_in_another_form(make):
    name = "caf\u00e9/1.png"
    make.file(unicodedata.normalize("NFD", name))
    source = open_source(make.csv("set.csv", ["path"], [[name]]))["train"]
    assert source.ids[0] == name
    assert source[0].size == (2, 2)


def test_a_class_that_is_no_text(look, make):
    folder = make.root / "set" / "cat"
    folder.mkdir(parents=True)
    os.mkdir(os.fsencode(folder.parent) + b"/\xff")
    Path(os.fsdecode(os.fsencode(folder.parent) + b"/\xff/1.png")).write_bytes(make.png())
    os.mkdir(os.fsencode(folder.parent) + b"/\xfe")
    splits, said = look("cat/1.png")
    assert splits["train"].class_names == ("\\udcff", "cat")
    assert "\\udcfe" in said


def test_what_lies_beside_and_within_shards_is_named(make):
    members = {
        "a.png": make.png(),
        "b.heic": b"",
        "inner.tar": b"",
        "noend": b"",
        "c.txt": b"",
        "._a.png": b"",
    }
    make.tar("store/1.tar", members)
    make.tar("set/2.TAR", {"a.png": make.png()})
    make.file("set/3.tar.gz", b"")
    (make.root / "set" / "linked").symlink_to(make.root / "store")
    spec = str(make.root / "set")
    splits = open_source(spec)
    assert list(splits["train"].ids) == ["2.TAR/a", "linked/1.tar/a"]
    beside, within = understand(spec, splits, splits).warnings
    assert ".gz (1)" in beside
    assert ".heic (1), .tar (1), no ending (1)" in within


def test_rows_of_a_shard_are_in_the_order_of_its_images(make):
    members = {
        "b.cls": b"0",
        "a.txt": b"",
        "c.png": make.png(),
        "b.png": make.png(),
        "d.cls": b"1",
        "a.cls": b"1",
    }
    source = open_source(make.tar("a.tar", members))["train"]
    assert [name.partition("/")[2] for name in source.ids] == ["c", "b", "d", "a"]
    assert source.labels.tolist() == [-1, 0, 1, 1]


def test_twelve_bits_are_scaled_to_eight(make):
    shades = np.array([[0, 4095]], np.uint16)
    packed = bytes([shades[0, 0] >> 4, (shades[0, 0] & 15) << 4 | shades[0, 1] >> 8, shades[0, 1] & 255])
    tags = [(256, 2), (257, 1), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 1), (279, 3)]
    body = b"".join(
        tag.to_bytes(2, "little")
        + (3).to_bytes(2, "little")
        + (1).to_bytes(4, "little")
        + value.to_bytes(4, "little")
        for tag, value in tags
    )
    head = b"II*\0" + (12).to_bytes(4, "little") + packed + b"\0" + len(tags).to_bytes(2, "little")
    make.file("set/1.tif", head + body + bytes(4))
    image = np.asarray(open_source(str(make.root / "set"))["train"][0])
    assert image[0, :, 0].tolist() == [0, 255]
