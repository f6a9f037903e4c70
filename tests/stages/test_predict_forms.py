"""`predict` in every form: formats, probabilities, sets, order, sorted files, and runs of before."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

import featcache as fc
from featcache.errors import CacheError, ConfigError, SourceError, TrainError
from featcache.runs.run import RunFolder
from featcache.stages.extract import extract
from featcache.stages.predict import describe, predict
from featcache.training.held_out import HeldOut

pytestmark = pytest.mark.usefixtures("one_thread")
FIRST = ["split", "id", "prediction", "confidence", "label"]
COLUMNS = [*FIRST, "second", "second_confidence", "unsure", "novelty"]


@pytest.fixture(scope="module")
def probe(cache, learned, tmp_path_factory):
    """With held-out folds."""
    return learned(cache, tmp_path_factory.mktemp("probe") / "run", "linear")


def table(path):
    return pq.read_table(path).to_pydict()


def test_the_table_is_what_python_gets(probe, cache, tmp_path):
    predict(probe, cache, tmp_path / "p.parquet", probabilities=True)
    found, said = table(tmp_path / "p.parquet"), fc.Run.open(probe).predict(cache)
    assert list(found) == [*COLUMNS, "p:cat", "p:dog", "p:owl"]
    for name, values in {
        "prediction": said.label,
        "label": said.truth,
        "second": said.second,
        "unsure": said.unsure,
    }.items():
        assert found[name] == values.tolist()
    assert found["confidence"] == said.confidence.tolist()
    assert found["novelty"] == said.novelty.tolist()
    assert found["p:dog"] == pytest.approx(said.probabilities[:, 1].tolist(), abs=1e-6)
    assert said.unsure.tolist() == ((said.confidence < 0.8) | (said.novelty >= 0.95)).tolist()
    assert (said.second_confidence <= said.confidence).all()
    assert all(a != b for a, b in zip(said.label, said.second, strict=True))
    assert said[3:5].id.tolist() == said.id[3:5].tolist()
    assert said.learned.sum() == 6
    assert "6 of them learned from" in repr(said)


def test_confidence_is_calibrated(probe, cache, edit_run):
    """With the temperature of the run; the order of the classes does not change."""
    run = fc.Run.open(probe)
    said, temperature = run.predict(cache), run.figures["temperature"]
    edit_run(probe, "result.json", temperature=2 * temperature)
    try:
        hotter = run.predict(cache)
    finally:
        edit_run(probe, "result.json", temperature=temperature)
    assert (hotter.label == said.label).all()
    expected = said.probabilities**0.5 / (said.probabilities**0.5).sum(1, keepdims=True)
    assert hotter.probabilities == pytest.approx(expected)


def test_the_same_rows_in_every_format_and_order(probe, cache, tmp_path):
    for ending in ("csv", "jsonl"):
        predict(probe, cache, tmp_path / f"p.{ending}", split="test")
    lines = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    with (tmp_path / "p.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == [line["id"] for line in lines]
    assert [float(row["confidence"]) for row in rows] == [line["confidence"] for line in lines]
    assert list(rows[0]) == COLUMNS
    predict(probe, cache, tmp_path / "p.jsonl", sort="unsure", unsure_below=0.999)
    ordered = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    sure = [line["confidence"] for line in ordered]
    assert sure == sorted(sure)
    assert all(line["unsure"] for line in ordered if line["confidence"] < 0.999)
    for wrong in (
        {"sort": "id"},
        {"unsure_below": 1.5},
        {"coverage": 90},
        {"source": "x"},
        {"unsure_apart": True},
    ):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            predict(probe, cache, tmp_path / "q.csv", **wrong)
    assert not (tmp_path / "q.csv").exists()


def test_sets_of_classes(run, cache, tmp_path, edit_run):
    shutil.copytree(run, tmp_path / "run")
    run, file = tmp_path / "run", tmp_path / "run" / "held_out.safetensors"
    RunFolder(run).write("result.json", fc.Run.open(run).figures)  # no record, as there will be another file
    with pytest.raises(TrainError, match="cross-validation"):
        predict(run, cache, tmp_path / "p.parquet", coverage=0.8)
    rng, label = np.random.default_rng(0), np.arange(12) % 3
    log_probs = np.log(rng.dirichlet(np.ones(3), 12))
    HeldOut(np.arange(12), label, log_probs, np.ones((1, 12), np.int8), np.ones(12), 3).save(file)
    with pytest.raises(TrainError, match=r"12 held-out labels[\s\S]*at least 19"):
        predict(run, cache, tmp_path / "p.parquet", coverage=0.95)
    assert not (tmp_path / "p.parquet").exists()
    summary = predict(run, cache, tmp_path / "p.parquet", coverage=0.8)["train"]
    assert "classes in a set" in describe("train", summary)
    assert summary.promised
    found, said = table(tmp_path / "p.parquet"), fc.Run.open(run).predict(cache, coverage=0.8)
    assert list(found) == [*COLUMNS, "set"]
    assert found["set"] == [list(held) for held in said.sets]
    assert all(held[0] == name for held, name in zip(found["set"], found["prediction"], strict=True))
    several = np.array([len(held) > 1 for held in said.sets])
    assert 0 < several.sum() < len(said)
    assert said.unsure[several].all()
    assert summary.set_size == pytest.approx(said[said.split == "train"].within.sum(1).mean())
    edit_run(run, "labels.json", chosen=4)
    summary = predict(run, cache, tmp_path / "p.parquet", coverage=0.8)["train"]
    assert not summary.promised
    assert "not drawn at random" in describe("train", summary)
    wider = fc.Run.open(run).predict(cache, coverage=0.9)
    assert all({*a} <= {*b} for a, b in zip(said.sets, wider.sets, strict=True))


def test_a_run_of_an_earlier_version_has_no_novelty(probe, cache, tmp_path):
    shutil.copytree(probe, tmp_path / "run")
    RunFolder(tmp_path / "run").write("result.json", fc.Run.open(probe).figures)  # it has no record either
    (tmp_path / "run" / "reference.safetensors").unlink()
    predict(tmp_path / "run", cache, tmp_path / "p.parquet")
    assert list(table(tmp_path / "p.parquet")) == COLUMNS[:-1]
    assert fc.Run.open(tmp_path / "run").predict(cache).novelty is None


@pytest.fixture
def sortable(photos, frozen, learned, tmp_path):
    extract(photos, frozen("tiny"), tmp_path / "c.zarr", num_workers=0)
    run = learned(tmp_path / "c.zarr", tmp_path / "run", "linear")
    return lambda **options: predict(run, tmp_path / "c.zarr", tmp_path / "p.parquet", **options)


@pytest.mark.parametrize("how", ["in_place_links", "copy_to"])
def test_files_are_sorted_by_class(sortable, photos, tmp_path, tree, how):
    before, folder = tree(photos), tmp_path / "sorted"
    (photos / "test" / "cat" / "00.png").write_bytes(before["train/cat/00.png"])
    before = tree(photos)
    sortable(**{how: folder})
    found = table(tmp_path / "p.parquet")
    files = {file.relative_to(folder) for file in folder.rglob("*.png")}
    assert len(files) == 14
    assert tree(photos) == before
    for split, name, prediction in zip(found["split"], found["id"], found["prediction"], strict=True):
        base = name.rpartition("/")[2]
        same = [file for file in files if str(file.parent) == prediction and file.name.endswith(base)]
        assert before[f"{split}/{name}"] in [(folder / file).read_bytes() for file in same]
    again = tree(folder)
    sortable(**{how: folder})
    assert tree(folder) == again


def test_unsure_files_apart_and_a_source_that_moved(sortable, photos, tmp_path):
    moved = photos.rename(tmp_path / "moved")
    options = {"in_place_links": tmp_path / "sorted", "unsure_apart": True, "unsure_below": 0.999}
    with pytest.raises(SourceError, match=r"cannot be opened[\s\S]*source"):
        sortable(**options)
    assert not (tmp_path / "p.parquet").exists()
    sortable(**options, source=moved)
    unsure = table(tmp_path / "p.parquet")["unsure"]
    assert len(list((tmp_path / "sorted" / "unsure").rglob("*.png"))) == sum(unsure)
    (moved / "train" / "cat" / "00.png").unlink()
    with pytest.raises(SourceError, match=r"cat/00\.png[\s\S]*source"):
        sortable(**options, source=moved)
    with pytest.raises(ConfigError, match="one way"):
        sortable(in_place_links=tmp_path / "a", copy_to=tmp_path / "b")


def test_samples_that_are_no_files(run, cache, tmp_path):
    with pytest.raises(SourceError, match="what it was extracted from"):
        predict(run, cache, tmp_path / "p.csv", copy_to=tmp_path / "sorted")
    with pytest.raises(SourceError, match="not files of their own"):
        predict(run, cache, tmp_path / "p.csv", copy_to=tmp_path / "sorted", source="digits")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_photos_gets_the_two_commands(run, photos, tmp_path):
    with pytest.raises(CacheError, match=r"no featcache cache[\s\S]*a run predicts") as caught:
        predict(run, photos, tmp_path / "p.csv")
    told = caught.value.text(command_line=True)
    assert "--model made-up --tokens all --layer -1 --out photos.zarr" in told
    assert f"featcache predict {run} photos.zarr --out" in told
