"""A user's labels matched to the samples of a cache."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featcache.cache.reader import CacheReader
from featcache.errors import LabelError
from featcache.labels.match import Matcher, Row
from featcache.labels.table import read_labels


@pytest.fixture(scope="module")
def cache(make_cache, tmp_path_factory) -> CacheReader:
    """30 train and 18 test rows with ids such as train/003.png; labels cat, dog, owl."""
    return CacheReader.open(make_cache(tmp_path_factory.mktemp("labels") / "c.zarr"))


@pytest.fixture
def table(tmp_path: Path):
    def write(content: str, name: str = "labels.csv") -> Path:
        (tmp_path / name).write_text(content, encoding="utf-8")
        return tmp_path / name

    return write


def named(cache: CacheReader, own, split: str = "train") -> dict[str, str]:
    """The labelled samples of a split, with the names of their classes."""
    table = own.table
    labelled = zip(cache.split(split).ids, table.by_split[split].tolist(), strict=True)
    return {key: table.class_names[label] for key, label in labelled if label >= 0}


def test_ids_file_names_and_paths(cache, table) -> None:
    own = read_labels(
        table("file,label\ntrain/000.png,b\nC:\\mine\\train\\001.png,a\n/data/train/002,c\ntest/003.png,a\n"),
        cache,
    )
    assert own.table.class_names == ("a", "b", "c")
    assert named(cache, own) == {"train/000.png": "b", "train/001.png": "a", "train/002.png": "c"}
    assert named(cache, own, "test") == {"test/003.png": "a"}
    assert own.warnings == ()


def test_a_later_file_wins_and_takes_back(cache, table) -> None:
    first = table("id,label\ntrain/000.png,a\ntrain/001.png,b\n", "first.csv")
    second = table("id,label\ntrain/000.png,\ntrain/001.png,c\ntrain/002.png,a\n", "second.csv")
    own = read_labels([first, second], cache)
    assert named(cache, own) == {"train/001.png": "c", "train/002.png": "a"}
    assert own.table.class_names == ("a", "c"), "a class without a sample is no class"


def test_one_file_gives_a_sample_one_label(cache, table) -> None:
    """Also where it names the sample in two ways."""
    with pytest.raises(LabelError, match="two labels") as caught:
        read_labels(table("id,label\ntrain/000.png,a\nphotos/train/000.png,b\n"), cache)
    assert "row 1" in str(caught.value)
    assert "row 2" in str(caught.value)


def test_columns_are_found_as_sources_find_them(cache, table) -> None:
    own = read_labels(table("File Name,Class,split\n000.png, a ,train \n000.png,-1.0,test\n"), cache)
    assert named(cache, own) == {"train/000.png": "a"}
    assert named(cache, own, "test") == {}


def test_update_keeps_the_rest(cache, table) -> None:
    own = read_labels(table("id,label\ntrain/000.png,emu\ntrain/001.png,\n"), cache, update=True)
    assert own.table.class_names == ("cat", "dog", "owl", "emu")
    names = named(cache, own)
    assert names["train/000.png"] == "emu"
    assert "train/001.png" not in names
    assert names["train/002.png"] == "owl"


def test_a_split_column_tells_equal_names_apart(cache, table) -> None:
    with pytest.raises(LabelError, match=r"`003.png` \(row 1 of labels.csv\) fits 2 samples[\s\S]*split"):
        read_labels(table("id,label\n003.png,a\n"), cache)
    own = read_labels(table("id,label,split\n003.png,a,test\n004.png,b,train\n"), cache)
    assert (named(cache, own), named(cache, own, "test")) == ({"train/004.png": "b"}, {"test/003.png": "a"})


def test_what_fits_nothing_is_listed_or_left_out(cache, table) -> None:
    content = "id,label\ntrain/000.png,a\n" + "".join(f"x{row}.png,b\n" for row in range(12))
    with pytest.raises(LabelError, match=r"12 of 13[\s\S]*`x0.png`[\s\S]*and 2 more[\s\S]*ignore_unmatched"):
        read_labels(table(content), cache)
    own = read_labels(table(content), cache, ignore_unmatched=True)
    assert named(cache, own) == {"train/000.png": "a"}
    assert "12 of 13" in own.warnings[0]
    with pytest.raises(LabelError, match="label no sample"):
        read_labels(table("id,label\nx.png,a\n"), cache, ignore_unmatched=True)
    with pytest.raises(LabelError, match="label no sample"):
        read_labels(table("id,label\ntrain/000.png,\n"), cache)


def test_numbers_are_ordered_and_like_names_are_said(cache, table) -> None:
    numbers = "id,label\n" + "".join(f"train/{row:03}.png,{12 - row}\n" for row in range(4))
    assert read_labels(table(numbers), cache).table.class_names == ("9", "10", "11", "12")
    own = read_labels(
        table("id,label\ntrain/000.png,Cat\ntrain/001.png,cat\ntrain/002.png,caf\u0065\u0301\n"), cache
    )
    assert own.table.class_names == ("Cat", "caf\u00e9", "cat")
    assert len(own.warnings) == 1
    assert "Cat" in own.warnings[0]


def test_a_thousand_classes_and_strange_names(make_cache, tmp_path, table) -> None:
    path = make_cache(tmp_path / "c.zarr", splits={"train": [-1] * 1000})
    names = ["a, b", "🐈", *(f"class {row}" for row in range(998))]
    rows = "".join(f'train/{row:03}.png,"{name}"\n' for row, name in enumerate(names))
    own = read_labels(table("id,label\n" + rows), CacheReader.open(path))
    assert len(own.table.class_names) == 1000
    assert own.table.class_names[own.table.by_split["train"][1]] == "🐈"


def test_chosen_labels_are_counted(cache, table) -> None:
    own = read_labels(table("id,label,chosen_by\ntrain/000.png,a,margin\ntrain/001.png,b,\n"), cache)
    assert own.table.chosen == 1


NAME = st.text(st.sampled_from("ab."), min_size=1, max_size=3).filter(lambda name: name.strip("."))
ID = st.lists(NAME, min_size=1, max_size=3).map("/".join)


@given(st.lists(ID, min_size=1, max_size=8, unique=True), ID)
def test_a_match_is_a_suffix_and_ids_find_themselves(ids: list[str], name: str) -> None:
    matcher = Matcher({"train": ids})
    for row, key in enumerate(ids):
        assert matcher.find(key) == [Row("train", row)]
        assert Row("train", row) in matcher.find(f"/somewhere/{key}") or matcher.find(f"/somewhere/{key}")
    for found in matcher.find(name):
        mine, theirs = name.split("/"), ids[found.row].split("/")
        common = min(len(mine), len(theirs))
        stem = theirs[-1].rsplit(".", 1)[0]
        assert mine[-common:] in (theirs[-common:], [*theirs[-common:-1], stem])
