"""A table in three formats that say the same, and never over a file that is no table."""

from __future__ import annotations

import csv
import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from featcache.errors import ConfigError
from featcache.filing.table import FORMATS, Table

ROWS = {
    "split": ["train"] * 3,
    "id": ["a,b.png", "🦊\n.png", 'c"d.png'],
    "prediction": ["cat, tabby", "owl", None],
    "confidence": [0.25, 0.1234567, np.nan],
    "label": [None, "owl", None],
    "unsure": np.array([True, False, None], object),
    "novelty": np.array([0.5, 1.0, np.nan]),
    "set": [("owl", "cat, tabby"), ("owl",), None],
    "p:cat, tabby": np.array([0.25, 0.1, np.nan]),
}
PLAIN = [
    {"split": "train", "id": "a,b.png", "prediction": "cat, tabby", "confidence": 0.25, "label": None}
    | {"unsure": True, "novelty": 0.5, "set": ["owl", "cat, tabby"], "p:cat, tabby": 0.25},
    {"split": "train", "id": "🦊\n.png", "prediction": "owl", "confidence": 0.123457, "label": "owl"}
    | {"unsure": False, "novelty": 1.0, "set": ["owl"], "p:cat, tabby": 0.1},
    {"split": "train", "id": 'c"d.png', "prediction": None, "confidence": None, "label": None}
    | {"unsure": None, "novelty": None, "set": None, "p:cat, tabby": None},
]


def read(path):
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().split("\n") if line]
    with path.open(newline="", encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    numbers = ("confidence", "novelty", "p:cat, tabby")
    kinds = dict.fromkeys(numbers, float) | {
        "set": json.loads,
        "unsure": {"true": True, "false": False}.get,
    }
    return [{k: kinds.get(k, str)(v) if v else None for k, v in row.items()} for row in found]


@pytest.mark.parametrize("ending", FORMATS)
def test_every_format_says_the_same(tmp_path, ending):
    path = tmp_path / "new" / f"p{ending}"
    for _ in range(2):  # the second time, over an earlier table
        table = Table.at(path)
        table.add({name: values[:1] for name, values in ROWS.items()})
        table.add({name: values[1:] for name, values in ROWS.items()})
        table.write()
    found = read(path)
    for row, expected in zip(found, PLAIN, strict=True):
        assert list(row) == list(expected)
        assert row == {
            name: pytest.approx(value, abs=1e-6) if isinstance(value, float) else value
            for name, value in expected.items()
        }


def test_the_least_sure_first(tmp_path):
    table = Table.at(tmp_path / "p.jsonl")
    table.add(ROWS)
    table.write(least_sure_first=True)
    assert [row["id"] for row in read(tmp_path / "p.jsonl")] == ["🦊\n.png", "a,b.png", 'c"d.png']


def test_endings_and_files_of_others_are_refused(tmp_path):
    for name in ("p", "p.tsv", "p.csv.gz"):
        with pytest.raises(ConfigError, match=r"\.csv, \.parquet, \.jsonl"):
            Table.at(tmp_path / name)
    for ending in FORMATS:
        for content in (b"PAR1", b"1,2\n", b'{"a": 1}\n', b"\xff\xfe"):
            (tmp_path / f"p{ending}").write_bytes(content)
            with pytest.raises(ConfigError, match="not a table of predictions"):
                Table.at(tmp_path / f"p{ending}")
            assert (tmp_path / f"p{ending}").read_bytes() == content
