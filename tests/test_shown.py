"""Names that an enemy chose reach a terminal and a spreadsheet harmless, and come back exactly."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result

from featcache.errors import ConfigError, FeatcacheError, option
from featcache.filing.table import Table
from featcache.labels.match import Matcher
from featcache.nn.projector import ProjectorOptions
from featcache.results import table as report
from featcache.shown import cell, harmless, uncelled

EVIL = [
    "\x1b[31mred",
    "a\nerror: b",
    "\u202eabc",
    "=1+1",
    "'=1",
    "+x",
    "-1/a.png",
    "@a",
    "\x02[]\x03",
    "\x9b1m",
]


@pytest.mark.parametrize("text", EVIL)
def test_nothing_that_a_terminal_obeys_is_left(text: str) -> None:
    shown = harmless(text, lines=False)
    assert shown.isprintable()
    assert shown != text or text.isprintable()


@pytest.mark.parametrize("text", ["cat", "Käfer 🐈", "猫", "a'b", "👩\u200d🔬"])
def test_ordinary_names_stay(text: str) -> None:
    assert harmless(text) == cell(text) == uncelled(text) == text


@pytest.mark.parametrize("text", EVIL)
def test_a_cell_is_no_formula_and_comes_back(text: str) -> None:
    assert cell(text)[0] not in "=+-@\t\r"
    assert uncelled(cell(text)) == text


def test_ids_of_our_tables_match_exactly() -> None:
    ids = ["=1/a.png", "'=1/a.png", "1/a.png", "-1/a.png", "a.png"]
    matcher = Matcher({"train": ids})
    for row, name in enumerate(ids):
        if row != 0:  # whose cell is itself an id
            assert [found.row for found in matcher.find(cell(name))] == [row]
        assert [found.row for found in matcher.find(name)] == [row]


def test_a_table_of_predictions_has_no_formula(tmp_path: Path) -> None:
    table = Table.at(tmp_path / "p.csv")
    names = np.array(EVIL, object)
    table.add(
        {
            "split": names,
            "id": names,
            "prediction": names,
            "confidence": np.full(len(EVIL), -0.5),
            "label": names,
        }
    )
    table.write()
    _, *rows = csv.reader(io.StringIO((tmp_path / "p.csv").read_bytes().decode(), newline=""))
    assert [uncelled(row[1]) for row in rows] == EVIL
    assert all(value[0] not in "=+-@" for row in rows for value in (*row[:3], row[4]))
    assert {row[3] for row in rows} == {"-0.500000"}


@pytest.mark.parametrize("name", EVIL)
def test_an_error_shows_a_name_in_one_piece(name: str) -> None:
    error = FeatcacheError(f"no {name}", got=name, hint=option("out", name))
    lines = harmless(error.text(command_line=True)).splitlines()
    assert not any(line.startswith("error:") for line in lines)
    assert all(line.isprintable() for line in lines)


def test_the_command_line_is_harmless_and_json_exact(
    make_cache: Callable[..., Path], tmp_path: Path, featcache: Callable[..., Result]
) -> None:
    evil = "\x1b[31mcat\nfake: line"
    path = make_cache(tmp_path / "c.zarr", classes=(evil, "dog", "\u202eowl"))
    text = featcache("info", path).output
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert not any(line.startswith("fake") for line in text.splitlines())
    raw = featcache("info", path, "--json").output
    assert "\x1b" not in raw
    assert evil in json.loads(raw)["classes"]
    refused = featcache("info", tmp_path / "\x1b[31m\nerror: x", code=1)
    assert "\x1b" not in refused.output
    assert refused.output.count("error:") - refused.output.count(" error:") == 1


def test_markdown_and_html_tables_hold_any_name() -> None:
    made = report.Table(["a|b"], [["<script>\n|"], ["**+1.0**"]])
    assert len(made.markdown().splitlines()) == 4
    assert "<script>" not in made.markdown() + made.html()


def test_numbers_beyond_any_machine_are_refused(featcache: Callable[..., Result], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="100"):
        ProjectorOptions.parse({"depth": 100_000})
    for flags, limit in (
        (["--views", "weak=100000000"], "1000"),
        (["--num-workers", 100_000], "1024"),
        (["--shard-size", 10**9], "1,000,000"),
        (["--batch-size", 10**9], "1000000"),
        (["--limit", 10**15], "10000"),
    ):
        made = ["extract", "digits", "--model", "open_clip:glyph-clip", "--out", tmp_path / "c.zarr", *flags]
        code = 1 if flags[0] in ("--views", "--shard-size") else 2
        assert limit in featcache(*made, "--dry-run", code=code).output.replace("<=", "")
    assert not (tmp_path / "c.zarr").exists()
