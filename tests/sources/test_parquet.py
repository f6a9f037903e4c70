"""Hugging Face style parquet."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featcache.errors import SampleError, SourceError
from featcache.sources import open_source
from featcache.sources.parquet import _Groups


def structs(make, *paths):
    return [
        {"bytes": make.png(np.full((2, 2), row, np.uint8)), "path": path} for row, path in enumerate(paths)
    ]


def test_paths_are_ids_where_unique(make):
    spec = make.parquet("a.parquet", {"image": structs(make, "x/1.png", "x/2.png")})
    assert list(open_source(spec)["train"].ids) == ["x/1.png", "x/2.png"]


@pytest.mark.parametrize(
    "paths", [("same.png", "same.png"), ("1.png", None), ("/home/me/1.png", "2.png"), ("", "2.png")]
)
def test_rows_are_ids_otherwise(make, paths):
    spec = make.parquet("a.parquet", {"image": structs(make, *paths)})
    assert list(open_source(spec)["train"].ids) == ["a.parquet:0", "a.parquet:1"]


def test_a_folder_of_shards_and_splits(make):
    for name, rows in (
        ("train-00000-of-00002", 3),
        ("train-00001-of-00002", 2),
        ("validation-00000-of-00001", 1),
    ):
        make.parquet(f"set/data/{name}.parquet", {"text": [f"{name} {row}" for row in range(rows)]}, group=2)
    splits = open_source(str(make.root / "set"))
    assert {name: len(source) for name, source in splits.items()} == {"train": 5, "validation": 1}
    assert splits["train"][3] == "train-00001-of-00002 0"
    assert splits["train"].ids[3] == "data/train-00001-of-00002.parquet:0"
    only_train = open_source(str(make.root / "set/data/train-*.parquet"))
    assert list(only_train) == ["train"]
    assert only_train["train"].ids[3] == "train-00001-of-00002.parquet:0"


@pytest.mark.parametrize(
    "kind", [pa.int64(), pa.float64(), pa.string(), pa.dictionary(pa.int8(), pa.string())]
)
def test_label_types(make, kind):
    values = [1, 0, None] if pa.types.is_integer(kind) or pa.types.is_floating(kind) else ["1", "0", None]
    spec = make.parquet("a.parquet", {"text": ["a", "b", "c"], "target": pa.array(values, kind)})
    assert open_source(spec)["train"].labels.tolist() == [1, 0, -1]


def test_the_label_column_asked_for(make):
    columns = {"text": ["a", "b"], "label": [0, 1], "coarse": [0, 0]}
    spec = make.parquet("a.parquet", columns, ["animal"], label="coarse")
    source = open_source(spec, label_column="coarse")["train"]
    assert (source.labels.tolist(), source.class_names) == ([0, 0], ("animal",))
    assert open_source(spec)["train"].class_names == ("0", "1")
    with pytest.raises(
        SourceError, match=r"(?s)no column `coarze`.*text, label, coarse.*did you mean `coarse`"
    ):
        open_source(spec, label_column="coarze")


def test_class_names_stay_where_nothing_is_labelled(make):
    source = open_source(make.parquet("test.parquet", {"text": ["a"], "label": [-1]}, ["x", "y"]))["test"]
    assert (source.labels.tolist(), source.class_names) == ([-1], ("x", "y"))


def test_a_label_outside_the_class_names(make):
    spec = make.parquet("a.parquet", {"text": ["a", "b"], "label": [0, 7]}, ["x", "y"])
    with pytest.raises(SourceError, match=r"(?s)outside the classes.*7 in row 1 .*a.parquet:1.*0 to 1"):
        open_source(spec)


def test_splits_that_disagree_on_class_names(make):
    make.parquet("set/train.parquet", {"text": ["a"], "label": [0]}, ["x", "y"])
    make.parquet("set/test.parquet", {"text": ["a"], "label": [0]}, ["y", "x"])
    with pytest.raises(SourceError, match=r"(?s)columns.*train.parquet.*test.parquet"):
        open_source(str(make.root / "set"))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"n": [1, 2]}, "no image and no text column.*n: int64.*struct<bytes, path>"),
        ({"front": [b"a"], "back": [b"b"]}, "columns.*front, back"),
        ({"premise": ["a"], "hypothesis": ["b"]}, "columns.*premise, hypothesis"),
        ({"text": pa.array([], pa.string())}, "no samples.*0 rows"),
        ({"text": ["a"], "label": [[1, 2]]}, r"neither a whole number nor a name.*\[1, 2\]"),
    ],
)
def test_columns_that_do_not_fit(make, columns, message):
    with pytest.raises(SourceError, match=f"(?s){message}"):
        open_source(make.parquet("a.parquet", columns))


def test_a_usual_name_decides_between_columns(make):
    spec = make.parquet("a.parquet", {"title": ["no"], "text": ["yes"]})
    assert open_source(spec)["train"][0] == "yes"


def test_damaged_metadata(make):
    table = pa.table({"text": ["a"]}).replace_schema_metadata({"huggingface": "{"})
    pq.write_table(table, make.path("a.parquet"))
    with pytest.raises(SourceError, match=r"(?s)`huggingface` metadata of a.parquet.*info"):
        open_source(str(make.root / "a.parquet"))


def test_not_parquet(make):
    with pytest.raises(SourceError, match=r"(?s)cannot be read as parquet.*a.parquet"):
        open_source(make.file("a.parquet", b"PAR1 and no more"))


def test_empty_rows_are_samples_that_fail(make):
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = [None, {"bytes": None, "path": "x.png"}, {"bytes": make.png(), "path": "y.png"}]
    source = open_source(make.parquet("a.parquet", {"image": pa.array(rows, kind)}))["train"]
    for row in (0, 1):
        with pytest.raises(SampleError, match=f"(?s)row is empty, or.*a.parquet:{row}: null"):
            source[row]
    assert source[2].size == (2, 2)


def test_a_damaged_row_group_costs_its_rows_only(make):
    noise = np.random.default_rng(0).integers(0, 256, (4, 3000), dtype=np.uint8)
    path = make.path("a.parquet")
    pq.write_table(
        pa.table({"image": [row.tobytes() for row in noise]}), path, row_group_size=2, compression="zstd"
    )
    data = bytearray(path.read_bytes())
    start = pq.ParquetFile(path).metadata.row_group(0).column(0).data_page_offset
    data[start : start + 64] = bytes(64)
    path.write_bytes(data)
    source = open_source(str(path))["train"]
    with pytest.raises(SampleError, match=r"(?s)row group is damaged.*a.parquet:0: row group 0"):
        source[0]
    with pytest.raises(SampleError, match="not an image"):
        source[2]


def test_only_the_last_groups_stay_in_memory(make, monkeypatch):
    monkeypatch.setattr("featcache.sources.parquet._CACHED_BYTES", 3000)
    path = make.parquet("a.parquet", {"image": [bytes([row]) * 500 for row in range(40)]}, group=2)
    groups = _Groups(path, "image")
    assert [groups.value(row)[0] for row in range(40)] == list(range(40))
    assert groups.value(7) == bytes([7]) * 500
    assert sum(kept.nbytes for kept in groups._groups.values()) <= 3000
    assert 3 in groups._groups


@pytest.mark.parametrize(
    "kind", [pa.string_view(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())]
)
def test_types_that_other_writers_use(make, kind):
    text = pa.array(["one", "two", "one"]).cast(kind)
    source = open_source(make.parquet("a.parquet", {"text": text, "label": pa.array(["x", None, "y"])}))[
        "train"
    ]
    assert [source[row] for row in range(3)] == ["one", "two", "one"]
    assert source.labels.tolist() == [0, -1, 1]


def test_images_of_which_only_a_path_is_there_fail_and_say_so(make):
    rows = [{"bytes": None, "path": "imgs/0.png"}, {"bytes": make.png(), "path": "imgs/1.png"}]
    source = open_source(make.parquet("a.parquet", {"image": rows}))["train"]
    with pytest.raises(SampleError, match="path of a file"):
        source[0]
    assert source[1].size == (2, 2)


@pytest.mark.parametrize("column", ["path", "image"])
def test_paths_are_no_texts(make, column):
    spec = make.parquet("a.parquet", {column: ["imgs/0.png", "imgs/1.png"], "label": [0, 1]})
    with pytest.raises(SourceError, match=f"only strings in the column `{column}`"):
        open_source(spec)


def test_other_files_in_a_folder_of_shards_are_named(make):
    make.parquet("set/train.parquet", {"text": ["a", "b"]})
    make.file("set/more.arrow", b"x")
    assert any(".arrow (1)" in note for note in open_source(str(make.root / "set"))["train"].origin.notes)


def test_damage_within_is_a_sentence(make):
    spec = make.parquet("a.parquet", {"text": ["a", "b"], "label": [0, 1]})
    data = bytearray((make.root / "a.parquet").read_bytes())
    data[4:204] = b"\xff" * 200
    (make.root / "a.parquet").write_bytes(data)
    with pytest.raises(SourceError, match="cannot be read as parquet"):
        open_source(spec)
