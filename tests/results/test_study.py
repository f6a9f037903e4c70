"""A study from a pipeline file: its controls, the settings selected for it, its tables and plots."""

import json

import pytest
from PIL import Image

from featcache.errors import ConfigError
from featcache.stages.pipeline import load, run_pipeline

pytestmark = pytest.mark.usefixtures("one_thread")
FILE = """
[extract.small]
source = "{source}"
model = "{model}"
num_workers = 0

[train]
objectives = ["supervised"]
labels_per_class = [2]
seeds = [0, 1]

[options]
optim.steps = 2
projector.heads = 2

[select.supervised]
"objective.label_smoothing" = [0.0, 0.5]
cv = [2]
"""


@pytest.fixture
def write(photos, frozen, tmp_path):
    def go(swap=("", ""), model=None):
        path = tmp_path / "small.toml"
        text = FILE.format(source=photos, model=model or frozen("tiny")).replace(*swap)
        path.write_text(text)
        return str(path)

    return go


def test_the_whole_walk(write, tmp_path):
    """Every control on every draw, every candidate, and the tables."""
    study = run_pipeline(write(), out=tmp_path / "out", device="cpu", trust=True)
    assert [row.objective for row in study.rows] == ["knn", "linear", "supervised"]
    assert len(study.trainings) == 2 * (2 + 3)
    folder = tmp_path / "out" / "small" / "supervised"
    runs = {path.parent.relative_to(folder).parts[0] for path in folder.rglob("result.json")}
    assert runs == {"labels_per_class=2", "label_smoothing=0.0,cv=2", "label_smoothing=0.5,cv=2"}
    assert not list(folder.rglob("fold=*"))
    held_out = {
        path.parent.parent.parent.name: json.loads(path.read_text())["held_out"] is not None
        for path in folder.glob("*/*/*/result.json")
    }
    assert held_out == {"label_smoothing=0.0,cv=2": True, "label_smoothing=0.5,cv=2": True}
    text = (tmp_path / "out" / "results.md").read_text()
    assert "Only 2 label draws" in text
    assert "| oracle (test labels) |" in text
    assert "chosen by" in study.describe()
    said = json.loads(json.dumps(study.as_dict()))
    assert [row["objective"] for row in said["rows"]] == ["knn", "linear", "supervised"]
    assert said["table"] == str(tmp_path / "out" / "results.md")
    with Image.open(tmp_path / "out" / "reliability.png") as picture:
        assert picture.width > 100


def test_zero_shot_is_a_control_where_there_is_class_text(write):
    pipeline, caches = load(write()), {"small": "a"}
    without = [cell.objective for cell, _ in pipeline.requests(caches)]
    with_text = [cell.objective for cell, _ in pipeline.requests(caches, ["small"])]
    assert list(dict.fromkeys(without)) == ["knn", "linear", "supervised"]
    assert list(dict.fromkeys(with_text)) == ["zero_shot", "knn", "linear", "supervised"]


def test_the_default_is_a_candidate_once(write):
    """A combination that is the default by another name is not trained again."""
    settings = load(write(swap=("cv = [2]", ""))).settings("supervised")
    assert list(settings) == ["", "label_smoothing=0.5"]
    assert settings["label_smoothing=0.5"]["objective"] == {"label_smoothing": 0.5}
    assert settings["label_smoothing=0.5"]["optim"] == {"steps": 2}


@pytest.mark.parametrize(
    ("swap", "message"),
    [
        (("[select.supervised]", "[select.supervisd]"), r"`supervisd`[\s\S]*`supervised`"),
        (("objective.label_smoothing", "objective.smoothing"), r"`smoothing`"),
        (("cv = [2]", "cv = [1]"), r"`cv`[\s\S]*got: +1"),
        (("cv = [2]", "cv = []"), r"`select\.supervised\.cv`"),
    ],
)
def test_a_choice_that_does_not_fit_is_said_before_any_work(write, tmp_path, swap, message):
    with pytest.raises(ConfigError, match=message):
        run_pipeline(write(swap), out=tmp_path / "out", device="cpu", trust=True)
    assert not (tmp_path / "out").exists()
