"""Tables of labels as people write them."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from featcache.errors import FeatcacheError, LabelError
from featcache.labels.files import read_given


def pairs(path: Path) -> list[tuple[str, str | None]]:
    return [(line.key, line.name) for line in read_given(path)]


@pytest.mark.parametrize(
    "content",
    [
        "id,label\na,cat\nb,\nc,dog\n",
        "\ufeffid,label\r\na,cat\r\nb,\r\nc,dog\r\n",
        "id;label\na;cat\nb;\nc;dog\n",
        "id,label,note\na, cat ,x\nb,-1,\nc,dog,y\n",
        'file_name,class\n"a",cat\nb,""\nc,"dog"\n',
    ],
    ids=["plain", "BOM and Windows", "semicolons", "spaces", "quotes"],
)
def test_a_csv(tmp_path: Path, content: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_bytes(content.encode())
    assert pairs(path) == [("a", "cat"), ("b", None), ("c", "dog")]


def test_jsonl_parquet_and_numbers(tmp_path: Path) -> None:
    lines = [{"id": "a", "label": 3}, {"id": "b", "label": None}, {"id": 7, "label": "x, y 🐈"}]
    (tmp_path / "l.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert pairs(tmp_path / "l.jsonl") == [("a", "3"), ("b", None), ("7", "x, y 🐈")]
    table = pa.table({"sample_id": ["a", "b"], "target": pa.array([3.0, None]), "split": ["val", "train"]})
    parquet.write_table(table, tmp_path / "l.parquet")
    assert [(g.key, g.name, g.split) for g in read_given(tmp_path / "l.parquet")] == [
        ("a", "3", "validation"),
        ("b", None, "train"),
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("l.csv", "id,kind of cell\na,cat\n", r"kind of cell[\s\S]*label_column"),
        ("l.csv", "photo,label\na,cat\n", r"column of samples[\s\S]*photo"),
        ("l.csv", "id,label\n", "no row"),
        ("l.csv", "id,label\na,cat\n,dog\n", "row 2"),
        ("l.csv", "id,label\na,cat\na,dog\n", r"`a`[\s\S]*`cat` in row 1[\s\S]*`dog` in row 2"),
        ("l.xlsx", "", r"l.xlsx[\s\S]*\.csv"),
        ("l.parquet", "no parquet", "cannot be read"),
    ],
)
def test_refusals(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(FeatcacheError, match=message):
        read_given(tmp_path / name)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="nothing"):
        read_given(tmp_path / "nothing.csv")


def test_the_same_label_twice_is_one_label(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("id,label\na,cat\na,cat\n")
    assert pairs(tmp_path / "l.csv") == [("a", "cat"), ("a", "cat")]
