"""A person who labels texts reads them in the table, not in the file they came from."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

import featcache as fc
from featcache.active.table import Suggestion, Suggestions
from featcache.active.texts import texts_of
from featcache.cache.reader import CacheReader

MODEL = """
import torch


class Lengths(torch.nn.Module):
    modality = "text"

    def forward(self, **inputs):
        return inputs["x"][:, None]


def build():
    return Lengths(), lambda text: {"x": torch.tensor([float(len(text)), 1.0 + text.count(" ")])}
"""


@pytest.fixture(scope="module")
def sentences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of six sentences, with its source and model beside it."""
    folder = tmp_path_factory.mktemp("texts")
    (folder / "model.py").write_text(MODEL)
    with (folder / "mine.csv").open("w", newline="") as file:
        lines = [["sentence"], *([f"number {n}\n{'and so on ' * n}"] for n in range(6))]
        csv.writer(file).writerows(lines)
    fc.extract(folder / "mine.csv", f"python:{folder}/model.py:build", folder / "c.zarr", progress=False)
    return folder


def test_the_table_holds_the_texts_while_the_source_is_at_hand(sentences: Path, tmp_path: Path) -> None:
    fc.suggest(sentences / "c.zarr", 2, out=tmp_path / "next.csv")
    with (tmp_path / "next.csv").open() as file:
        for line in csv.DictReader(file):
            number = line["id"].rpartition(":")[2]
            assert line["text"] == f"number {number} {'and so on ' * int(number)}".strip()
    cache = CacheReader.open(sentences / "c.zarr")
    assert texts_of(cache, "train", ["unheard of", "mine.csv:0"]) == [None, "number 0"]
    (sentences / "mine.csv").rename(sentences / "moved.csv")
    assert texts_of(cache, "train", ["mine.csv:0"]) == [None]


def test_only_texts_have_a_column_in_the_terminal() -> None:
    for text, shown in ((None, False), ("long " * 40, True)):
        sample = Suggestion("a", "train", None, None, None, "why", "cover", text)
        found = Suggestions((sample,), fc.suggest.__globals__["Forecast"](0, 1))
        head, line = str(found).splitlines()[:2]
        assert ("text" in head) == shown
        assert len(line) < 100
