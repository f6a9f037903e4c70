"""WebDataset shards."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from featcache.errors import SampleError, SourceError
from featcache.sources import open_source


def test_splits_of_shards(make):
    for name in ("imagenet-train-0000", "imagenet-train-0001", "imagenet-validation-0000"):
        make.tar(f"set/{name}.tar", {"a.jpg": make.png(), "a.cls": b"1"})
    splits = open_source(str(make.root / "set"))
    assert {name: len(source) for name, source in splits.items()} == {"train": 2, "validation": 1}
    assert list(splits["train"].ids) == ["imagenet-train-0000.tar/a", "imagenet-train-0001.tar/a"]
    assert list(open_source(str(make.root / "set/imagenet-train-*.tar"))) == ["train"]


def test_keys_end_at_the_first_dot_and_keep_their_folder(make):
    members = {
        "n01/a.png": make.png(),
        "n01/a.seg.png": b"mask",
        "n02/a.png": make.png(),
        "n02/b.c.json": b"{}",
    }
    assert list(open_source(make.tar("a.tar", members))["train"].ids) == ["a.tar/n01/a", "a.tar/n02/a"]


def test_a_hard_link_is_the_file_it_names(make):
    path = Path(make.tar("a.tar", {"a.png": make.png(), "a.cls": b"cat"}))
    with tarfile.open(path, "a") as tar:
        for name, target in (("b.png", "a.png"), ("b.cls", "a.cls"), ("c.png", "gone.png")):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.LNKTYPE, target
            tar.addfile(member)
    source = open_source(str(path))["train"]
    assert source.labels.tolist() == [0, 0, -1]
    assert source.content(1) == source.content(0) == make.png()
    with pytest.raises(SampleError, match="no image"):
        source[2]


@pytest.mark.parametrize("key", ["label", "cls"])
def test_labels_in_json(make, key):
    members = {"a.png": make.png(), "a.json": json.dumps({key: 2}).encode(), "b.png": make.png()}
    source = open_source(make.tar("a.tar", members))["train"]
    assert source.labels.tolist() == [2, -1]


def test_the_label_asked_for(make):
    members = {"a.png": make.png(), "a.cls": b"0", "a.kind": b"dog\n", "a.json": b'{"age": 3}'}
    spec = make.tar("a.tar", members)
    assert open_source(spec)["train"].labels.tolist() == [0]
    assert open_source(spec, label_column="kind")["train"].class_names == ("dog",)
    assert open_source(spec, label_column="age")["train"].labels.tolist() == [3]
    with pytest.raises(SourceError, match=r"(?s)no sample has a label `size`.*cls, json, json:age"):
        open_source(spec, label_column="size")


def test_a_label_outside_classes_txt(make):
    make.file("classes.txt", b"cat\ndog\n")
    with pytest.raises(SourceError, match=r"(?s)outside the classes.*'2' in row 0 .*a.tar/a.*cat, dog"):
        open_source(make.tar("a.tar", {"a.png": make.png(), "a.cls": b"2"}))


def test_a_label_without_an_image_keeps_its_row(make):
    source = open_source(make.tar("a.tar", {"a.png": make.png(), "a.cls": b"0", "b.cls": b"1"}))["train"]
    assert source.labels.tolist() == [0, 1]
    with pytest.raises(SampleError, match=r"(?s)has no image.*a.tar/b"):
        source[1]


def test_other_members_are_no_samples(make):
    members = {"README.md": b"#", ".hidden.png": b"", "noext": b"", "a.png": make.png(), "b.txt": b"caption"}
    assert list(open_source(make.tar("a.tar", members))["train"].ids) == ["a.tar/a"]


def test_a_missing_shard(make):
    for number in (0, 2):
        make.tar(f"{number}.tar", {"a.png": make.png()})
    with pytest.raises(SourceError, match=r"(?s)1 of 3 files are missing.*got: *1.tar"):
        open_source(str(make.root / "{0..2}.tar"))


def test_a_shard_cut_short(make):
    path = Path(make.tar("a.tar", {"a.png": make.png(), "b.png": bytes(5000)}))
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(SourceError, match=r"(?s)cannot be read as a tar.*a.tar.*whole, uncompressed"):
        open_source(str(path))


def test_a_shard_that_vanishes(make):
    path = Path(make.tar("a.tar", {"a.png": make.png()}))
    source = open_source(str(path))["train"]
    path.unlink()
    with pytest.raises(SampleError, match=r"(?s)shard cannot be read.*a.tar/a: No such file"):
        source[0]


def test_a_compressed_shard(make):
    with tarfile.open(make.path("a.tar"), "w:gz") as tar:
        tar.add(make.file("a.png"), "a.png")
    with pytest.raises(SourceError, match="uncompressed tar"):
        open_source(str(make.root / "a.tar"))


def test_two_images_of_one_key(make):
    with pytest.raises(SourceError, match=r"(?s)two images.*a.jpg"):
        open_source(make.tar("a.tar", {"a.png": b"", "a.jpg": b""}))


def test_malformed_json(make):
    with pytest.raises(SourceError, match=r"(?s)json member is malformed.*a.tar/a"):
        open_source(make.tar("a.tar", {"a.png": b"", "a.json": b"[1"}))


def test_no_samples(make):
    with pytest.raises(SourceError, match=r"(?s)no samples.*a.tar"):
        open_source(make.tar("a.tar", {"a.txt": b"caption"}))
