"""Finding the format and the splits."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from featcache.errors import SourceError
from featcache.sources import open_source
from featcache.sources._paths import expand_braces
from featcache.sources._splits import group_files, in_order, split_name
from featcache.sources.base import digest_samples


def test_every_format_is_recognised(every_format):
    for format in every_format:
        forced = format.build("a")
        found = open_source(forced.partition(":")[2])["train"]
        assert digest_samples(found) == digest_samples(open_source(forced)["train"])


def test_import_is_light():
    heavy = "{'torch', 'PIL', 'pyarrow', 'h5py', 'sklearn'}"
    code = f"import sys, featcache.sources; sys.exit(bool({heavy} & set(sys.modules)))"
    assert (
        subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False).returncode
        == 0
    )


def test_digits_next_to_a_folder_of_that_name(make, monkeypatch):
    make.file("digits/cat/1.png")
    monkeypatch.chdir(make.root)
    with pytest.raises(SourceError, match=r"(?s)more than one format.*digits:digits.*folder:digits"):
        open_source("digits")
    assert len(open_source("digits:")["train"]) == 1297
    assert len(open_source("folder:digits")["train"]) == 1


def test_home_folder(make, monkeypatch):
    monkeypatch.setenv("HOME", str(make.root))
    make.file("a.txt", b"one\n")
    assert open_source("~/a.txt")["train"][0] == open_source("text:~/a.txt")["train"][0] == "one"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nowhere/at/all", "no such file or folder.*nowhere/at/all.*check the path"),
        ("nowhere-*.tar", "no such file or folder.*check the path"),
        ("folder:nowhere", "no images found.*nowhere"),
        ("text:nowhere.txt", "no such file.*nowhere.txt"),
        ("text:nowhere.csv", "no such file.*nowhere.csv"),
        ("filelist:nowhere.csv", "cannot be opened.*No such file"),
        ("parquet:nowhere.parquet", "1 of 1 files are missing"),
        ("webdataset:{0..2}.tar", "3 of 3 files are missing.*0.tar, 1.tar, 2.tar"),
        ("hdf5:nowhere.h5", "cannot be read as HDF5.*nowhere.h5"),
        ("array:nowhere.npy", "cannot be read as NumPy.*nowhere.npy"),
    ],
)
def test_nothing_there(spec, message, make, monkeypatch):
    monkeypatch.chdir(make.root)
    with pytest.raises(SourceError, match=f"(?s){message}"):
        open_source(spec)


def test_a_format_that_does_not_exist(make):
    spec = make.file("a.txt", b"one\n")
    with pytest.raises(SourceError, match=r"(?s)no such file.*did you mean `text`"):
        open_source(f"texts:{spec}")


def test_an_empty_folder(make):
    (make.root / "empty").mkdir()
    with pytest.raises(SourceError, match=r"(?s)folder is empty.*expected:.*folder of images.*next:"):
        open_source(str(make.root / "empty"))


def test_a_folder_without_samples(make):
    make.file("set/notes.md", b"#")
    with pytest.raises(
        SourceError, match=r"(?s)no format fits.*notes|no format fits.*set.*next:.*folder, hdf5"
    ):
        open_source(str(make.root / "set"))


def test_a_folder_of_two_formats(make):
    make.file("set/1.png")
    make.parquet("set/a.parquet", {"text": ["one"]})
    spec = str(make.root / "set")
    with pytest.raises(
        SourceError, match=f"(?s)more than one format.*folder, parquet.*folder:{spec}.*parquet:{spec}"
    ):
        open_source(spec)
    assert open_source(f"parquet:{spec}")["train"].modality == "text"


@pytest.mark.parametrize(
    "stem", ["train", "Training", "test", "val", "valid", "validation", "dev", "other", "trainer"]
)
def test_a_file_is_the_split_its_name_says(make, stem):
    expected = {"training": "train", "val": "validation", "valid": "validation", "dev": "validation"}
    known = ("train", "test", "validation")
    name = expected.get(stem.lower(), stem if stem in known else "train")
    assert list(open_source(make.file(f"{stem}.txt", b"one\n"))) == [name]
    np.save(make.path(f"{stem}.npy"), np.zeros((1, 2, 2), np.uint8))
    assert list(open_source(str(make.root / f"{stem}.npy"))) == [name]


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train-00000-of-00002", "train"),
        ("imagenet1k-validation-07", "validation"),
        ("testset", "test"),
        ("x_test", "test"),
        ("train2017", "train"),
        ("contest", None),
        ("developers", None),
        ("valley", None),
    ],
)
def test_split_names(name, split):
    assert split_name(name) == split


def group(*names):
    files = [Path("root") / name for name in names]
    return {split: [file.name for file in found] for split, found in group_files(Path("root"), files).items()}


def test_shards_go_by_name_then_by_folder():
    assert group("train/1.tar", "test/0.tar", "train/0.tar") == {
        "test": ["0.tar"],
        "train": ["0.tar", "1.tar"],
    }
    assert group("b.tar", "a.tar") == {"train": ["a.tar", "b.tar"]}


def test_what_names_no_split_is_kept_apart_from_train():
    found = group("train-0.tar", "extra-0-of-2.tar", "extra-1-of-2.tar", "unsupervised.tar")
    assert found["train"] == ["train-0.tar"]
    assert found["extra"] == ["extra-0-of-2.tar", "extra-1-of-2.tar"]
    assert found["unsupervised"] == ["unsupervised.tar"]


def test_order_of_splits():
    assert list(in_order(dict.fromkeys(["test", "zoo", "validation", "extra", "train"]))) == [
        "train",
        "validation",
        "test",
        "extra",
        "zoo",
    ]


def test_braces():
    assert expand_braces("{00009..00011}.tar") == ["00009.tar", "00010.tar", "00011.tar"]
    assert expand_braces("{a,b}/{0..1}") == ["a/0", "a/1", "b/0", "b/1"]
    assert expand_braces("plain") == ["plain"]
