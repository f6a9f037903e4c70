"""What a report says is what the run says; what is gone is said; nothing else is overwritten."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
import pytest

import featcache as fc
from tests.page.pages import KINDS, OBJECTIVES

Page = Callable[[str], fc.Report]


def test_the_figures_are_those_of_the_run(page: Page, cells: Path) -> None:
    content, run = page("run").content, fc.Run.open(cells / "run")
    test = run.figures["test"]
    (accuracy,) = content["accuracy"]
    assert accuracy["value"] == test["accuracy"] == run.accuracy
    assert accuracy["low"] < accuracy["value"] <= accuracy["high"]
    assert content["judged"]["matrix"]["counts"] == test["confusion"]
    assert {c["name"]: c["recall"] for c in content["judged"]["classes"]} == pytest.approx(test["per_class"])
    wrong = sum(c["count"] for c in content["judged"]["confused"])
    assert wrong == test["samples"] - np.trace(test["confusion"]) == len(content["mistakes"])
    assert [step for step, _ in content["training"]["loss"]] == [1, 2, 3, 4]


def test_the_samples_are_those_of_the_predictions(page: Page, cells: Path) -> None:
    content = page("run").content
    found = fc.Run.open(cells / "run").predict(fc.Cache.open(cells / "c.zarr")["test"])
    wrong = {str(i) for i in found.id[found.label != found.truth]}
    assert {card["id"] for card in content["mistakes"]} == wrong
    confidence = [card["confidence"] for card in content["mistakes"]]
    assert confidence == sorted(confidence, reverse=True)
    sure = [card["confidence"] for card in content["unsure"]]
    assert sure == sorted(sure)
    assert sure[0] == pytest.approx(found.confidence.min())
    assert all(card["image"].startswith("data:image/webp;base64,") for card in content["unsure"])
    assert all(card["look"].startswith("data:image/png;base64,") for card in content["unsure"])


def test_a_run_without_a_test_shows_its_held_out_labels(page: Page) -> None:
    content = page("no test").content
    assert "did not see it" in content["judged"]["what"]
    assert sum(c["samples"] for c in content["judged"]["classes"]) == 36
    assert content["accuracy"][0]["said"].startswith("About")
    assert content["curve"][0][0] < content["curve"][-1][0] <= 36


def test_texts_are_shown_as_text(page: Page) -> None:
    shown = page("texts").content["unsure"]
    assert shown
    assert all("number" in card["text"] for card in shown)


def test_where_everything_is_learned_the_samples_are_held_out_ones(page: Page) -> None:
    content = page("no test").content
    assert content["samples"]["held_out"]
    wrong = sum(c["count"] for c in content["judged"]["confused"])
    assert len(content["mistakes"]) == wrong > 0
    assert all(card["truth"] != card["prediction"] for card in content["mistakes"])


def test_a_source_that_is_gone_is_a_note(page: Page) -> None:
    content = page("source gone").content
    assert "elsewhere" in content["notes"][0]
    assert content["unsure"]
    assert not any("image" in card for card in content["unsure"])


def test_a_cache_that_is_gone_is_a_note_unless_it_is_named(page: Page, cells: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    for file in (cells / "run").iterdir():
        (tmp_path / "run" / file.name).write_bytes(file.read_bytes())
    whole = (cells / "c.zarr").rename(cells / "moved.zarr")
    try:
        content = fc.report(tmp_path / "run", tmp_path / "report.html").content
        assert "gone" in content["notes"][0]
        assert "unsure" not in content
        with pytest.raises(fc.FeatcacheError, match="gone"):
            fc.report(tmp_path / "run", tmp_path / "report.html", cache=tmp_path / "none.zarr")
        assert fc.report(tmp_path / "run", tmp_path / "report.html", cache=whole).content["unsure"]
    finally:
        whole.rename(cells / "c.zarr")


def test_a_study_has_its_table_and_a_winner_at_each_budget(page: Page) -> None:
    content = page("study").content
    assert [w["labels"] for w in content["winners"]] == ["1/class", "2/class", "4/class", "8/class"]
    assert {w["draws"] for w in content["winners"]} == {5}
    for w in content["winners"]:
        own = [row for row in content["rows"] if row["labels"] == w["labels"]]
        assert w["mean"] == pytest.approx(max(row["accuracy"] for row in own))
    assert set(content["panels"][0]["methods"]) == set(OBJECTIVES)
    assert len(content["table"]["rows"]) == 4 * len(OBJECTIVES)


@pytest.mark.parametrize("kind", KINDS)
def test_json_has_what_the_page_has_without_pictures(page: Page, kind: str) -> None:
    text = json.dumps(page(kind).as_dict(), allow_nan=False)
    assert "data:image" not in text
    assert page(kind).path.stat().st_size < 3_000_000


def test_the_map_has_a_row_for_each_sample(page: Page, cells: Path) -> None:
    made = page("run")
    assert made.map is not None
    table = parquet.read_table(made.map)
    assert table.column_names == ["split", "id", "x", "y", "label", "prediction", "confidence"]
    split = fc.Cache.open(cells / "c.zarr")["test"]
    assert table["id"].to_pylist() == list(split.ids)
    assert len({*zip(table["x"].to_pylist(), table["y"].to_pylist(), strict=True)}) == split.rows


def test_only_an_earlier_report_is_overwritten(cells: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    out.write_text("<!doctype html>\nmy own page")
    with pytest.raises(fc.FeatcacheError, match="not a report"):
        fc.report(cells / "run", out)
    assert out.read_text().endswith("my own page")
    out.unlink()
    first = fc.report(cells / "run", out).path.read_bytes()
    assert fc.report(cells / "run", out).path.read_bytes() == first


def test_what_belongs_to_one_run_is_refused_for_several(page: Page, tmp_path: Path) -> None:
    runs = page("study").path.parent / "runs"
    with pytest.raises(fc.FeatcacheError, match="map"):
        fc.report(runs, tmp_path / "report.html", map=True)
    assert not (tmp_path / "report.html").exists()


def test_labels_from_a_table_have_a_learning_curve(make_cache: Callable[..., Path], tmp_path: Path) -> None:
    cache = fc.Cache.open(make_cache(tmp_path / "c.zarr", splits={"train": [-1] * 40}))
    lines = [f"train/{row:03}.png,{'ab'[row % 2]}" for row in range(40)]
    (tmp_path / "labels.csv").write_text("\n".join(["id,label", *lines]))
    run = fc.train(cache, "linear", labels=tmp_path / "labels.csv", out=tmp_path / "run", progress=False)
    curve = fc.report(run, tmp_path / "report.html").content["curve"]
    assert curve[-1][0] == 32


def test_what_no_model_left_unseen_is_not_called_so(make_cache: Callable[..., Path], tmp_path: Path) -> None:
    cache = fc.Cache.open(make_cache(tmp_path / "c.zarr", splits={"train": [0, 1, 2] * 4}))
    run = fc.train(cache, "linear", out=tmp_path / "run", options={"cv": "off"}, progress=False)
    made = fc.report(run, tmp_path / "report.html", map=True)
    assert not made.content["samples"]["held_out"]
    assert made.content["unsure"] == []
    assert "each predicted by models" not in made.path.read_text()


@pytest.mark.parametrize("failed", [range(1, 30), range(30)], ids=["but one", "all"])
def test_rows_that_failed_are_not_shown(
    make_cache: Callable[..., Path], tmp_path: Path, failed: range
) -> None:
    whole = fc.Cache.open(make_cache(tmp_path / "c.zarr"))
    run = fc.train(whole, "linear", out=tmp_path / "run", labels_per_class=2, progress=False)
    spoilt = make_cache(tmp_path / "spoilt.zarr", failed={"train": failed})
    made = fc.report(run, tmp_path / "report.html", cache=spoilt, split="train", map=True)
    assert len(made.content["unsure"]) <= 30 - len(failed)
    json.dumps(made.as_dict(), allow_nan=False)
    assert parquet.read_table(made.map)["x"].null_count == len(failed)


def test_metrics_that_are_damaged_are_said(cells: Path, tmp_path: Path) -> None:
    shutil.copytree(cells / "run", tmp_path / "run")
    path = tmp_path / "run" / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(fc.FeatcacheError, match=r"metrics\.jsonl"):
        fc.report(tmp_path / "run", tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_a_full_disk_leaves_the_earlier_report(cells: Path, tmp_path: Path, file_limit: Any) -> None:
    out = fc.report(cells / "run", tmp_path / "report.html").path
    before = out.read_bytes()
    with file_limit(1000), pytest.raises(fc.FeatcacheError, match="full"):
        fc.report(cells / "run", out)
    assert out.read_bytes() == before
