"""`predict` from a finished run to a table: it agrees with the test, and needs only the run."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save

import featcache as fc
from featcache import plugins
from featcache.filing.table import FIRST
from featcache.objectives.linear import Linear
from featcache.runs.run import RunFolder
from featcache.runs.saved import header, write_tensors
from featcache.specs import ViewSpec
from featcache.stages.extract import extract
from featcache.stages.predict import describe
from featcache.stages.predict import predict as stage
from featcache.training.metrics import expected_calibration_error

pytestmark = pytest.mark.usefixtures("one_thread")
OBJECTIVES = plugins.names("objectives")


def predict(run, cache, out, **options):
    summaries = stage(run, cache, out, device="cpu", **options)
    with out.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0])[:5] == FIRST
    return summaries, rows


def confusion(rows, classes=("cat", "dog", "owl")):
    matrix = np.zeros((len(classes), len(classes)), int)
    for row in rows:
        matrix[classes.index(row["label"]), classes.index(row["prediction"])] += 1
    return matrix.tolist()


def calibration(rows):
    """The calibration error of the table's confidences, which differs between models."""
    right = np.array([row["prediction"] == row["label"] for row in rows])
    sure = np.array([float(row["confidence"]) for row in rows])
    log_probs = np.stack([np.log(sure), np.full(len(sure), -np.inf)], 1)
    return expected_calibration_error(log_probs, np.where(right, 0, 1))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_what_was_tested_is_what_predicts(make_cache, learned, tmp_path, objective):
    """For every objective, from a copy of the run alone: its own cache is gone."""
    options = {"text": True, "weak": 2, "strong": 2, "dtype": "float16"}
    run = learned(make_cache(tmp_path / "gone.zarr", **options), tmp_path / "there", objective)
    result = json.loads((run / "result.json").read_text())["test"]
    shutil.move(run, tmp_path / "here")
    shutil.move(tmp_path / "gone.zarr", tmp_path / "other.zarr")
    summaries, rows = predict(tmp_path / "here", tmp_path / "other.zarr", tmp_path / "p.csv", split="test")
    assert list(summaries) == ["test"]
    assert summaries["test"].accuracy == result["accuracy"]
    assert (summaries["test"].rows, summaries["test"].judged) == (18, 18)
    assert confusion(rows) == result["confusion"]
    assert calibration(rows) == pytest.approx(result["ece_scaled"], abs=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"optim": {"ema": 0.9}},
        {"projector": {"pool": "gem", "dropout": 0.5}},
        {"data": {"layer": -2}},
        {"data": {"train": "test", "test": "train"}},
    ],
)
@pytest.mark.parametrize("kind", [{}, {"mask": True, "dtype": "bfloat16", "pooled": 6}])
def test_what_was_tested_is_what_predicts_with_every_option(make_cache, learned, tmp_path, options, kind):
    cache = make_cache(tmp_path / "c.zarr", layers=(-1, -2), weak=1, **kind)
    run = learned(cache, tmp_path / "run", "twinturbo", **options)
    result = json.loads((run / "result.json").read_text())["test"]
    tested = options.get("data", {}).get("test", "test")
    _, rows = predict(run, cache, tmp_path / "p.csv", split=tested)
    assert confusion(rows) == result["confusion"]
    assert calibration(rows) == pytest.approx(result["ece_scaled"], abs=1e-5)


def test_the_average_is_what_predicts(cache, learned, tmp_path):
    """The figures above would not tell, were the average and the last weights alike."""
    run = learned(cache, tmp_path / "run", optim={"ema": 0.99})
    _, before = predict(run, cache, tmp_path / "p.csv")
    content, result = load_file(run / "checkpoint.safetensors"), RunFolder(run).result()
    for name in content:
        if name.startswith("model."):
            content[name] = content[name] * 0
    (run / "result.json").unlink()
    write_tensors(run / "checkpoint.safetensors", save(content, header({"step": 3})))
    RunFolder(run).finish(result)
    assert predict(run, cache, tmp_path / "p.csv")[1] == before


def test_a_probe_is_fitted_again_as_it_was(cache, learned, tmp_path, monkeypatch):
    told, fit = [], Linear.fit
    monkeypatch.setattr(Linear, "fit", lambda self, *given: told.append(given) or fit(self, *given))
    predict(learned(cache, tmp_path / "run", "linear"), cache, tmp_path / "p.csv")
    (data, seed), *_folds, (again, same) = told
    assert seed == same == 1
    assert data.num_classes == again.num_classes == 3
    for name in ("pooled", "label", "class_text"):
        assert torch.equal(getattr(data, name), getattr(again, name))


def test_all_splits_in_the_order_of_the_cache(run, cache, tmp_path):
    summaries, rows = predict(run, cache, tmp_path / "new" / "folder" / "p.csv")
    assert list(summaries) == ["test", "train"]
    expected = [("test", f"test/{row:03}.png", ("cat", "dog", "owl")[row % 3]) for row in range(18)]
    expected += [("train", f"train/{row:03}.png", ("cat", "dog", "owl")[row % 3]) for row in range(30)]
    assert [(row["split"], row["id"], row["label"]) for row in rows] == expected
    assert all(1 / 3 <= float(row["confidence"]) <= 1 for row in rows)
    summary = summaries["train"]
    assert (summary.learned, summary.unsure) == (6, sum(row["unsure"] == "true" for row in rows[18:]))
    told = describe("train", summary)
    assert "% of 24 labelled, and " in told
    assert "% of 6 that it learned from" in told
    assert list((tmp_path / "new" / "folder").iterdir()) == [tmp_path / "new" / "folder" / "p.csv"]


@pytest.mark.parametrize("rows_at_a_time", [1, 7])
def test_how_many_rows_at_a_time_changes_nothing(run, cache, tmp_path, monkeypatch, rows_at_a_time):
    _, at_once = predict(run, cache, tmp_path / "p.csv")
    monkeypatch.setattr("featcache.api.run.ROWS", rows_at_a_time)
    _, rows = predict(run, cache, tmp_path / "p.csv")
    for one, other in zip(rows, at_once, strict=True):
        for name in ("confidence", "second_confidence"):
            assert float(one.pop(name)) == pytest.approx(float(other.pop(name)), abs=2e-6)
        assert one == other


def test_failed_rows_stay_in_their_place(run, make_cache, tmp_path):
    lost = {"train": [0, 4, 29], "test": range(18)}
    cache = make_cache(tmp_path / "c.zarr", failed=lost, weak=2, strong=2, dtype="float16")
    summaries, rows = predict(run, cache, tmp_path / "p.csv")
    train_rows = rows[18:]
    assert [number for number, row in enumerate(train_rows) if not row["prediction"]] == [0, 4, 29]
    assert [train_rows[row]["confidence"] for row in (0, 4, 29)] == ["", "", ""]
    assert [train_rows[row]["label"] for row in (0, 4, 29)] == ["cat", "dog", "owl"]
    assert len({row["id"] for row in train_rows}) == 30
    assert (summaries["train"].rows, summaries["train"].failed, summaries["train"].judged) == (30, 3, 27)
    assert {row["prediction"] for row in rows[:18]} == {""}
    assert describe("test", summaries["test"]) == "test: 18 rows, 18 failed in extraction"


def test_rows_without_a_label(run, make_cache, tmp_path):
    splits = {"new": [-1] * 5 + [0, 2], "more": [-1] * 4}
    summaries, rows = predict(run, make_cache(tmp_path / "c.zarr", splits=splits), tmp_path / "p.csv")
    assert [row["label"] for row in rows] == [""] * 9 + ["cat", "owl"]
    assert all(row["prediction"] for row in rows)
    assert (summaries["new"].judged, summaries["more"].accuracy) == (2, None)
    assert summaries["more"].learned == 0
    assert "accuracy" not in describe("more", summaries["more"])


def test_classes_are_compared_by_name(run, cache, make_cache, tmp_path):
    """The same samples in a cache that numbers its classes otherwise."""
    order = ("owl", "cat", "dog")
    labels = [order.index(("cat", "dog", "owl")[row % 3]) for row in range(18)]
    _, expected = predict(run, cache, tmp_path / "p.csv", split="test")
    other = make_cache(tmp_path / "c.zarr", splits={"test": labels}, classes=order)
    summaries, rows = predict(run, other, tmp_path / "p.csv")
    assert [row["label"] for row in rows] == [row["label"] for row in expected]
    right = sum(row["prediction"] == row["label"] for row in rows)
    assert summaries["test"].accuracy == right / 18


def test_classes_that_the_run_does_not_know(run, make_cache, tmp_path):
    splits = {"test": [0, 1, 2, 2, 3, -1, 0]}
    cache = make_cache(tmp_path / "c.zarr", splits=splits, classes=("dog", "cat", "emu", "yak"))
    summaries, rows = predict(run, cache, tmp_path / "p.csv")
    known = [row for row in rows if row["label"] in ("cat", "dog")]
    assert [row["label"] for row in rows] == ["dog", "cat", "emu", "emu", "yak", "", "dog"]
    assert {row["prediction"] for row in rows} <= {"cat", "dog", "owl"}
    assert summaries["test"].unknown == {"emu": 2, "yak": 1}
    right = sum(row["prediction"] == row["label"] for row in known)
    assert (summaries["test"].right, summaries["test"].judged) == (right, 6)
    told = describe("test", summaries["test"])
    assert told.endswith("of 6 labelled (3 wrong, of classes that the run does not know: emu, yak)")


def test_what_does_not_change_features_may_differ(make_cache, learned, tmp_path):
    run = learned(make_cache(tmp_path / "a.zarr"), tmp_path / "run")
    other = make_cache(
        tmp_path / "b.zarr", layers=(-2, -1), dtype="bfloat16", weak=1, classes=("dog", "owl", "x")
    )
    assert predict(run, other, tmp_path / "p.csv")[0].keys() == {"train", "test"}


def test_other_photos_in_another_cache(photos, frozen, learned, tmp_path):
    extract(photos, frozen("tiny"), tmp_path / "a.zarr", num_workers=0)
    run = learned(tmp_path / "a.zarr", tmp_path / "run", "knn")
    (photos / "test" / "cat").rename(photos / "test" / "a,\nb")
    changes = {"split": "test", "dtype": "float32", "views": ViewSpec(weak=1), "layers": (-2, -1)}
    extract(photos, frozen("tiny"), tmp_path / "b.zarr", num_workers=0, **changes)
    summaries, rows = predict(run, tmp_path / "b.zarr", tmp_path / "p.csv")
    assert [(row["id"], row["label"]) for row in rows] == [
        ("a,\nb/00.png", "a,\nb"),
        ("a,\nb/01.png", "a,\nb"),
        ("dog/02.png", "dog"),
        ("dog/03.png", "dog"),
    ]
    assert summaries["test"].unknown == {"a,\nb": 2}


def test_the_same_file_names_in_another_cache_are_other_photos(run, make_cache, tmp_path):
    other = make_cache(tmp_path / "b.zarr", splits={"train": [-1] * 31})
    summaries, rows = predict(run, other, tmp_path / "p.csv")
    assert {row["label"] for row in rows} == {""}
    assert summaries["train"].judged == 0


def test_the_public_name_and_the_command(run, cache, featcache, tmp_path):
    command = ("predict", run, cache, "--device", "cpu", "--out")
    told = featcache(*command, tmp_path / "a.csv").stdout.splitlines()
    summaries = fc.predict(run, cache, tmp_path / "b.csv", device="cpu")
    assert told[:2] == [describe(name, summaries[name]) for name in ("test", "train")]
    assert told[2:] == [f"predictions: {tmp_path / 'a.csv'}"]
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    one = featcache(*command, tmp_path / "a.csv", "--split", "test").stdout
    assert one.splitlines() == [told[0], told[2]]
    for wrong in ((tmp_path,), (tmp_path / "c.csv", "--split", "val")):
        refused = featcache(*command, *wrong, code=1)
        assert refused.stderr.startswith("error: ")
        assert refused.stdout == ""
