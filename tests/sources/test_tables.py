"""Lists of files, and texts, in CSV, TSV, JSONL and lines."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from featcache.errors import SampleError, SourceError
from featcache.sources import open_source
from featcache.sources._table import Table

words = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), max_size=12)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(st.lists(st.tuples(words, words), min_size=1), st.sampled_from(["a.csv", "a.tsv"]))
def test_any_csv_record_is_found_again_by_its_offset(make, rows, name):
    path = make.csv(name, ["text", "label"], rows)
    table = Table(Path(path))
    records = list(table.records())
    assert [(record["text"], record["label"]) for _, record in records] == rows
    for offset, record in reversed(records):
        assert table.at(offset, ["text", "label"]) == record


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(st.lists(st.dictionaries(words, st.one_of(words, st.integers(), st.none())), min_size=1))
def test_any_json_record_is_found_again_by_its_offset(make, records):
    table = Table(Path(make.jsonl("a.jsonl", records)))
    found = list(table.records())
    assert [record for _, record in found] == records
    assert all(table.at(offset, []) == record for offset, record in reversed(found))
    assert set(table.columns()) == {key for record in records for key in record}


def test_a_split_column(make):
    rows = [("a", "x", "train"), ("b", "y", "val"), ("c", "x", "TEST"), ("d", "", ""), ("e", "y", "holdout")]
    splits = open_source(make.csv("set.csv", ["text", "label", "split"], rows))
    assert list(splits) == ["train", "validation", "test", "holdout"]
    assert {name: list(source.ids) for name, source in splits.items()}["train"] == ["set.csv:0", "set.csv:3"]
    assert {name: source.labels.tolist() for name, source in splits.items()} == {
        "train": [0, -1],
        "validation": [1],
        "test": [0],
        "holdout": [1],
    }
    assert splits["holdout"][0] == "e"


def test_a_list_with_splits_and_missing_files(make):
    make.file("images/1.png")
    rows = [
        ("./images/1.png", "cat", "train"),
        ("images/2.png", "dog", "train"),
        ("images/1.png", "dog", "test"),
    ]
    splits = open_source(make.csv("set.csv", ["label", "path", "split"], [(b, a, c) for a, b, c in rows]))
    assert list(splits["train"].ids) == ["images/1.png", "images/2.png"]
    assert splits["train"][0].size == (2, 2)
    assert splits["test"].labels.tolist() == [1]
    with pytest.raises(SampleError, match=r"(?s)cannot be read.*images/2.png: No such file") as caught:
        splits["train"][1]
    assert str(make.root) not in str(caught.value)


def test_absolute_paths_do_not_reach_the_ids(make):
    image = make.file("images/1.png")
    source = open_source(make.csv("lists/set.csv", ["path"], [[image]]))["train"]
    assert list(source.ids) == ["../images/1.png"]
    assert source[0].size == (2, 2)


def test_the_same_file_twice(make):
    spec = make.csv("set.csv", ["path"], [["a.png"], ["b.png"], ["./a.png"]])
    with pytest.raises(SourceError, match=r"(?s)same id.*`a.png` in rows 0 and 2"):
        open_source(spec)


def test_json_lists_may_leave_labels_out(make):
    records = [{"path": "a.png"}, {"path": "b.png", "label": 1}, {"path": "c.png", "label": None}]
    assert open_source(make.jsonl("set.jsonl", records))["train"].labels.tolist() == [-1, 1, -1]


@pytest.mark.parametrize("column", ["path", "text"])
def test_a_wrong_label_column(make, column):
    spec = make.csv("set.csv", [column, "animal"], [["a.png", "cat"]])
    assert open_source(spec)["train"].labels.tolist() == [-1]
    assert open_source(spec, label_column="animal")["train"].class_names == ("cat",)
    with pytest.raises(
        SourceError, match=f"(?s)set.csv has no column `animl`.*{column}, animal.*mean `animal`"
    ):
        open_source(spec, label_column="animl")


def test_byte_order_mark_and_windows_line_ends(make):
    source = open_source(make.file("a.csv", b"\xef\xbb\xbftext,label\r\none,1\r\n\r\ntwo,0\r\n"))["train"]
    assert ([source[0], source[1]], source.labels.tolist()) == (["one", "two"], [1, 0])
    source = open_source(make.file("a.jsonl", b'\xef\xbb\xbf{"text": "one"}\r\n'))["train"]
    assert source[0] == "one"
    source = open_source(make.file("a.txt", b"\xef\xbb\xbfone\r\ntwo\r\n"))["train"]
    assert [source[0], source[1]] == ["one", "two"]


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
def test_the_file_says_what_separates_its_columns(make, mark):
    rows = ["text;label", '"one; two, | three";cat', "four;dog"]
    data = "\r\n".join(row.replace(";", mark) for row in rows).encode("utf-8-sig")
    source = open_source(make.file("a.csv", data))["train"]
    assert source[0].startswith("one")
    assert (source[1], source.class_names, source.labels.tolist()) == ("four", ("cat", "dog"), [0, 1])


def test_commas_in_a_text_do_not_separate_columns_by_semicolons(make):
    source = open_source(make.file("a.csv", b"text;label\na, b;x\nc, d, e;y\n"))["train"]
    assert ([source[0], source[1]], source.class_names) == (["a, b", "c, d, e"], ("x", "y"))


def test_columns_that_may_be_separated_in_two_ways(make):
    with pytest.raises(SourceError, match=r"(?s)a.csv can be separated in several ways.*',' or ';'"):
        open_source(make.file("a.csv", b"a;b,c\n1;2,3\n"))


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl"])
def test_a_folder_of_tables_has_a_split_for_each(make, suffix):
    for name, label in (("train-0", "x"), ("train-1", "y"), ("test", "x")):
        row = {"text": f"of {name}", "label": label}
        if suffix == "jsonl":
            make.jsonl(f"set/{name}.jsonl", [row])
        else:
            make.csv(f"set/{name}.{suffix}", [*row], [[*row.values()]])
    splits = open_source(str(make.root / "set"))
    assert list(splits) == ["train", "test"]
    assert list(splits["train"].ids) == [f"train-0.{suffix}:0", f"train-1.{suffix}:0"]
    assert [splits["train"][row] for row in (1, 0)] == ["of train-1", "of train-0"]
    assert splits["train"].labels.tolist() == [0, 1]
    assert (splits["test"][0], splits["test"].labels.tolist()) == ("of test", [0])


def test_a_folder_of_lists_of_files(make):
    make.file("photos/1.png")
    make.csv("set/train.csv", ["File Name", "Species"], [["../photos/1.png", "cat"]])
    make.csv("set/test.csv", ["File Name"], [["../photos/1.png"]])
    splits = open_source(str(make.root / "set"), label_column="Species")
    assert {name: source.labels.tolist() for name, source in splits.items()} == {"train": [0], "test": [-1]}
    assert splits["test"][0].size == (2, 2)
    with pytest.raises(SourceError, match=r"(?s)no column `species`.*Species"):
        open_source(str(make.root / "set"), label_column="species")


def test_images_beside_tables_are_a_folder_of_images(make):
    make.file("set/cat/1.png")
    make.csv("set/train.csv", ["path"], [["cat/1.png"]])
    assert open_source(str(make.root / "set"))["train"].class_names == ("cat",)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.csv", b"", "file is empty"),
        ("a.csv", b"text,label\n", "no samples"),
        ("a.csv", b"path\n", "no samples"),
        ("a.csv", b"a,b\n1,2\n", "neither a text column nor a path column.*columns a, b.*text, sentence"),
        ("a.csv", b"text,text\n1,2\n", "column name occurs twice"),
        ("a.csv", b"text,label\na,1\nb\n", "line 3 of a.csv.*1 values.*2: text, label"),
        ("a.csv", b'text,label\n"a,1\n', "line 2 of a.csv.*malformed"),
        ("a.csv", b"text\n\xff\n", "line 2 of a.csv.*not UTF-8"),
        ("a.csv", b"path,label\n,1\n", "no file.*row 0"),
        ("a.csv", b"path,label\na.png,-3\n", r"outside the classes.*-3.*row 0 .*a.png"),
        ("a.jsonl", b'{"text": "a"}\n[1]\n', "line 2 of a.jsonl.*list.*JSON object"),
        ("a.jsonl", b'{"text": "a"}\n{"text": \n', "line 2 of a.jsonl.*malformed"),
        ("a.jsonl", b'{"n": 1}\n', "neither.*columns n"),
        ("a.jsonl", b"", "neither|no samples"),
        ("a.txt", b"\n \n", "no samples"),
    ],
)
def test_malformed_files(make, name, data, message):
    with pytest.raises(SourceError, match=f"(?s){message}"):
        open_source(make.file(name, data))


def test_a_list_without_paths_when_forced(make):
    spec = make.csv("set.csv", ["text"], [["a"]])
    with pytest.raises(SourceError, match=r"(?s)set.csv has no path column.*columns text.*path, file"):
        open_source(f"filelist:{spec}")


def test_lines_have_no_label_column(make):
    with pytest.raises(SourceError, match=r"(?s)column.*label_column='label'"):
        open_source(make.file("a.txt", b"one\n"), label_column="label")


def test_blank_lines_count_but_are_no_samples(make):
    source = open_source(make.file("a.txt", b"one\n\ntwo"))["train"]
    assert list(source.ids) == ["a.txt:0", "a.txt:2"]
    assert [source[0], source[1]] == ["one", "two"]


def test_texts_that_fail_keep_their_row(make):
    lines = open_source(make.file("a.txt", b"one\n\xff\ntwo\n"))["train"]
    with pytest.raises(SampleError, match=r"(?s)not UTF-8.*a.txt:1: byte 0"):
        lines[1]
    assert lines[2] == "two"
    records = open_source(make.jsonl("a.jsonl", [{"text": "a"}, {"text": None}, {"text": 3}, {}]))["train"]
    for row, got in ((1, "None"), (2, "3"), (3, "None")):
        with pytest.raises(SampleError, match=f"(?s)holds no text.*a.jsonl:{row}: {got}.*column `text`"):
            records[row]


@pytest.mark.parametrize(
    ("name", "data"), [("a.txt", b"one\n"), ("a.csv", b"text\none\n"), ("a.jsonl", b'{"text": "one"}\n')]
)
def test_a_file_that_vanishes(make, name, data):
    spec = make.file(name, data)
    source = open_source(spec)["train"]
    Path(spec).unlink()
    with pytest.raises(SampleError, match=f"(?s)cannot be read.*{name}:0") as caught:
        source[0]
    assert str(make.root) not in str(caught.value)
