"""Controls that no one has to list, settings chosen without test labels, and what that choice was worth."""

import io
import json
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from featcache.errors import ConfigError
from featcache.report import choices, reliability
from featcache.report.study import Place, choose, rules
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


def result(accuracy, scores, held_out=None, seed=0, objective="x"):
    bins = {"count": [0, 10], "confidence": [None, 0.9], "accuracy": [None, accuracy]}
    figures = dict.fromkeys(("nll", "ece", "nll_scaled", "ece_scaled"), 0.5)
    return {
        "objective": objective,
        "seed": seed,
        "labels_per_class": 2,
        "num_labels": 4,
        "seconds": 1.0,
        "scores": scores,
        "held_out": held_out,
        "test": {"accuracy": accuracy, "reliability": {"before": bins, "after": bins}, **figures},
    }


def test_each_rule_by_hand():
    """Ranks by a: 3, 1, 2; by b: 2, 3, 1. The vote takes the third, which is not the best."""
    draw = [result(0.9, {"a": 0, "b": 5}), result(0.5, {"a": 9, "b": 4}), result(0.6, {"a": 8, "b": 6})]
    found = rules([draw, draw[:1]])
    assert found == {"vote": [2, 0], "a": [1, 0], "b": [2, 0], "default": [0, 0], "oracle": [0, 0]}
    assert next(iter(found)) == "vote"


def test_cross_validation_goes_before_the_vote_and_the_likelihood_decides_a_tie():
    held = [{"accuracy": a, "nll": n} for a, n in ((0.5, 0.1), (0.8, 0.9), (0.8, 0.4))]
    draw = [result(0.5, {"a": -n}, h) for n, h in enumerate(held)]
    assert next(iter(rules([draw]).items())) == ("cross-validation", [2])
    assert rules([draw])["vote"] == [0]
    assert "cross-validation" not in rules([draw, [result(0.5, {"a": 0})]])


def test_no_rule_but_the_oracle_looks_at_a_test():
    scored = [({"a": 1.0, "b": 3.0}, {"accuracy": 0.5, "nll": 1.0}), ({"a": 2.0, "b": 1.0}, None)]
    one, other = ([result(a, *s) for a, s in zip(test, scored, strict=True)] for test in ((0, 1), (1, 0)))
    picked, again = rules([one]), rules([other])
    assert [name for name in picked if picked[name] != again[name]] == ["oracle"]


def test_a_choice_is_made_for_each_draw():
    trained = []
    for seed, best in enumerate((0, 1, 1)):
        for number, setting in enumerate(("", "w=1")):
            place = Place("c", "x", setting, "labels_per_class=2", seed)
            trained.append((place, result(0.5 + 0.1 * number, {"a": float(number == best)}, seed=seed)))
    trained.append((Place("c", "knn", "", "labels_per_class=2", 0), result(0.3, {}, objective="knn")))
    results, made = choose(trained)
    assert [r["test"]["accuracy"] for _, r in results] == [0.5, 0.6, 0.6, 0.3]
    by_rule = {choice.rule: choice for choice in made}
    assert list(by_rule) == ["vote", "a", "default", "oracle"]
    assert by_rule["vote"].settings == ("default", "w=1", "w=1")
    shown = choices.markdown(made).splitlines()
    assert shown[2] == (
        "| c | 2/class | x | vote | 56.7 ± 5.8 | -3.3 ± 14.3 | +6.7 ± 14.3 | w=1 (2), default (1) |"
    )
    assert shown[-1].startswith("| c | 2/class | x | oracle (test labels) | 60.0 ± 0.0 |  | **+10.0 ±")


def test_the_whole_walk(write, tmp_path):
    """Every control on every draw, every candidate, and the tables."""
    study = run_pipeline(write(), out=tmp_path / "out", device="cpu")
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
    with Image.open(tmp_path / "out" / "reliability.png") as picture:
        assert picture.width > 100


def test_zero_shot_is_a_control_where_there_is_class_text(write):
    pipeline, caches = load(write()), {"small": "a"}
    without = [place.objective for place, _ in pipeline.requests(caches)]
    with_text = [place.objective for place, _ in pipeline.requests(caches, ["small"])]
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
        (("[select.supervised]", "[select.supervisd]"), r"not trained: `supervisd`[\s\S]*mean `supervised`"),
        (("objective.label_smoothing", "objective.smoothing"), r"unknown key `smoothing`"),
        (("cv = [2]", "cv = [1]"), r"`cv` in the training options does not fit\n +got: +1"),
        (("cv = [2]", "cv = []"), r"`select\.supervised\.cv`[\s\S]*at least 1 item"),
    ],
)
def test_a_choice_that_does_not_fit_is_said_before_any_work(write, tmp_path, swap, message):
    with pytest.raises(ConfigError, match=message):
        run_pipeline(write(swap), out=tmp_path / "out", device="cpu")
    assert not (tmp_path / "out").exists()


def test_the_diagram_shows_every_objective_of_the_largest_budget():
    def pixels(*accuracies):
        given = [("c", result(a, {}, objective=f"o{n}")) for n, a in enumerate(accuracies)]
        return np.asarray(Image.open(io.BytesIO(reliability.png(given))).convert("RGB")).astype(int)

    pictures = [pixels(0.9, 0.5), pixels(0.8, 0.5), pixels(0.8, 0.2), pixels(0.8, 0.2)]
    assert [bool((a != b).any()) for a, b in pairwise(pictures)] == [True, True, False]
