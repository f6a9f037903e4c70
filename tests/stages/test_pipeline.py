"""`run`: a typed file, its errors before any work, and a second run that does nothing again."""

import json
import re
import shutil
from dataclasses import replace

import pytest

from featcache.cache.reader import CacheReader
from featcache.config import merge, parse_overrides
from featcache.errors import ConfigError, TrainError
from featcache.stages.pipeline import load, run_pipeline

pytestmark = pytest.mark.usefixtures("one_thread")
RUNS = [
    f"small/{objective}/{budget}/seed={seed}"
    for budget in ("labels_per_class=1", "num_labels=4")
    for objective in ("linear", "supervised")
    for seed in (0, 1)
]


def times(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_the_whole_walk_and_a_second_run_that_has_nothing_to_do(write, tmp_path):
    out, said = tmp_path / "out", []
    study = run_pipeline(write(), out=out, device="cpu", trust=True, say=said.append)
    assert [line.partition("] ")[2].partition(":")[0] for line in said[-8:]] == RUNS
    assert all((out / run / "result.json").is_file() for run in RUNS)
    assert {row.objective: len(row.accuracy) for row in study.rows} == {"linear": 2, "supervised": 2}
    options = json.loads((out / RUNS[2] / "config.json").read_text())["options"]
    assert (options["optim"]["steps"], options["objective"]) == (4, {"label_smoothing": 0.1})
    table = (out / "results.md").read_text()
    assert table.startswith("| cache | labels | objective | accuracy % | minus linear | minus supervised |")
    assert re.search(r"\nOnly 2 label draws: .*\b5\b.*\n$", table)
    rows = [line for line in table.splitlines() if line.startswith("| small")]
    assert [line.split(" | ")[1:3] for line in rows] == [
        ["1/class", "linear"],
        ["1/class", "supervised"],
        ["4 in all", "linear"],
        ["4 in all", "supervised"],
    ]

    before, again = times(out), []
    repeated = run_pipeline(write(), out=out, device="cpu", trust=True, say=again.append)
    assert repeated == study
    after = times(out)
    tables = {out / f"results.{suffix}" for suffix in ("md", "csv", "tex")}
    plots = {out / f"{name}.{suffix}" for name in ("results", "reliability") for suffix in ("png", "svg")}
    written = {*tables, *plots, out / "report.html"}
    assert {path for path in before if after[path] != before[path]} == written
    assert after.keys() == before.keys()
    assert (out / "results.md").read_text() == table
    assert sum("0 views computed" in line for line in again) == 2
    assert study.extraction is not None
    assert study.extraction > 0
    assert "s; 8 trainings: " in repeated.describe()
    (out / "caches" / "small.json").write_text("{")
    assert run_pipeline(write(), out=out, device="cpu", trust=True).extraction is None
    (out / "caches" / "small.zarr" / "train" / "status" / "ledger" / "0.0.json").unlink()
    assert (
        "extraction: earlier, or in several parts; 8 trainings"
        in run_pipeline(write(), out=out, device="cpu", trust=True).describe()
    )


def test_it_says_what_the_second_experiment_costs(write, tmp_path):
    study = run_pipeline(write(), out=tmp_path / "out", device="cpu", trust=True)
    trainings = [("knn", 0.5), ("supervised", 2.0), ("supervised", 1.0), ("supervised", 6.0)]
    said = replace(study, extraction=18.0, trainings=trainings).describe()
    assert "extraction: 18.0 s; 4 trainings: 9.5 s" in said
    assert "the first experiment with supervised: 20.0 s, extraction included; " in said
    assert "the second, from the cache: 2.0 s, 10 times less" in said
    assert f"plot: {tmp_path / 'out' / 'results.png'}" in said


def test_an_interrupted_run_goes_on(write, tmp_path, tree):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    rows = run_pipeline(write(), out=whole, device="cpu", trust=True).rows

    def interrupt(line):
        if line.startswith("[3/8]"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_pipeline(write(), out=cut, device="cpu", trust=True, say=interrupt)
    assert not (cut / RUNS[3]).exists()
    (cut / RUNS[3]).mkdir(parents=True)
    done = times(cut / "small" / "linear")
    rest = run_pipeline(write(), out=cut, device="cpu", trust=True).rows
    assert [row.accuracy for row in rest] == [row.accuracy for row in rows]
    assert done.items() <= times(cut / "small" / "linear").items()
    assert tree(cut / "caches" / "small.zarr") == tree(whole / "caches" / "small.zarr")
    shutil.rmtree(cut / RUNS[0])
    assert len(run_pipeline(write(), out=cut, device="cpu", trust=True).rows) == len(rows)


def test_a_changed_file_does_not_mix_with_old_runs(write, tmp_path):
    options = {"out": tmp_path / "out", "device": "cpu", "overrides": {"train": {"objectives": ["knn"]}}}
    options["trust"] = True
    run_pipeline(write(), **options)
    changed = write(swap=("optim.steps = 4", "optim.steps = 5"))
    with pytest.raises(TrainError, match=r"`options\.optim\.steps` differs\n +got: +5\n +expected: 4"):
        run_pipeline(changed, **options)


def test_overrides(write, tmp_path):
    overrides = parse_overrides(
        ["train.objectives=['knn']", "train.num_labels=[]", "train.seeds=[3]", "extract.small.dtype=float32"]
    )
    rows = run_pipeline(write(), out=tmp_path, overrides=overrides, device="cpu", trust=True).rows
    assert [(row.cache, row.budget.label, row.objective) for row in rows] == [("small", "1/class", "knn")]
    assert (tmp_path / "small/knn/labels_per_class=1/seed=3/result.json").is_file()
    assert CacheReader.open(tmp_path / "caches" / "small.zarr").spec.dtype == "float32"


@pytest.mark.parametrize(
    ("limit", "rows"),
    [("limit = { train = 8, test = 3 }", {"train": 8, "test": 3}), ("limit = 6", {"train": 6, "test": 4})],
)
def test_limits(write, tmp_path, limit, rows):
    overrides = {"train": {"objectives": ["knn"], "num_labels": [2], "labels_per_class": []}}
    run_pipeline(write(limit), out=tmp_path, overrides=overrides, device="cpu", trust=True)
    cache = CacheReader.open(tmp_path / "caches" / "small.zarr")
    assert {name: cache.split(name).rows for name in cache.split_names} == rows


def test_without_a_budget_all_labels_are_used(write):
    pipeline = load(write(), {"train": {"labels_per_class": [], "num_labels": []}})
    for place, request in pipeline.requests({"small": "a"}):
        assert "/all_labels/" in place.path
        assert (request.labels_per_class, request.num_labels) == (None, None)


def test_two_caches_and_a_grid(write):
    second = '[extract.other]\nsource = "digits"\nmodel = "timm:test_vit.r160_in1k/random"\n'
    pipeline = load(write(second))
    places = {"small": "a", "other": "b"}
    names = [place.path for place, _ in pipeline.requests(places)]
    assert names == [*RUNS, *(name.replace("small", "other") for name in RUNS)]
    assert {request.cache for _, request in pipeline.requests(places)} == {"a", "b"}


CASES = """
[condition.plain]

[condition.tail]
data.imbalance = 4
optim.steps = 3

[variant.smoother]
objective = "supervised"
options = { label_smoothing = 0.3 }

[variant.bare]
objective = "supervised"
"""


def test_conditions_and_variants(write, tmp_path):
    overrides = {
        "train": {"objectives": ["linear", "supervised", "smoother", "bare"], "num_labels": []},
        "options": {"objective": {}},
    }
    path = write(swap=("[train]", f"{CASES}\n[train]"))
    out = tmp_path / "out"
    study = run_pipeline(path, out=out, overrides=overrides, device="cpu", trust=True)
    named = [(row.cache, row.objective, len(row.accuracy)) for row in study.rows]
    names = ["linear", "supervised", "smoother", "bare"]
    assert named == [(data, name, 2) for data in ("small+plain", "small+tail") for name in names]
    assert {name for name, _ in study.trainings} == set(names)
    assert all(row.differences.keys() == {"linear", "supervised"} - {row.objective} for row in study.rows)

    def config(place):
        return json.loads((out / place / "labels_per_class=1/seed=0/config.json").read_text())

    plain, tail = (config(f"small+{name}/smoother")["options"] for name in ("plain", "tail"))
    assert (plain["data"]["imbalance"], tail["data"]["imbalance"]) == (1, 4)
    assert (plain["optim"]["steps"], tail["optim"]["steps"]) == (4, 3)
    assert config("small+plain/smoother")["objective"] == "supervised"
    assert plain["objective"] == {"label_smoothing": 0.3}
    assert config("small+plain/bare")["options"]["objective"] == {"label_smoothing": 0.1}
    rows = {(row.cache, row.objective): row.accuracy for row in study.rows}
    assert rows["small+plain", "bare"] == rows["small+plain", "supervised"]
    some = merge(overrides, {"train": {"conditions": ["tail"]}})
    assert {
        row.cache for row in run_pipeline(path, out=out, overrides=some, device="cpu", trust=True).rows
    } == {"small+tail"}


def test_without_a_labelled_test_split_nothing_is_trained(make_cache, tmp_path):
    cache = make_cache(tmp_path / "c.zarr", splits={"train": [0, 1, 2] * 8, "test": [-1] * 4})
    (tmp_path / "p.toml").write_text(
        f'[extract.mine]\ncache = "{cache}"\n[train]\nobjectives = ["linear"]\nlabels_per_class = [2]\n'
    )
    with pytest.raises(ConfigError, match="no labelled split `test`"):
        run_pipeline(
            tmp_path / "p.toml", out=tmp_path / "out", device="cpu", trust=True, say=lambda line: None
        )
    assert not list(tmp_path.glob("out/**/config.json"))


def test_no_such_pipeline(tmp_path):
    with pytest.raises(ConfigError, match=r"no such pipeline[\s\S]*got: +quickstat[\s\S]*mean `quickstart`"):
        load("quickstat")
    with pytest.raises(ConfigError, match=r"no such file[\s\S]*got: +missing\.toml[\s\S]*quickstart"):
        load("missing.toml")


def test_one_objective_s_options_win_over_those_of_all(write):
    path = write(swap=("optim.steps = 4", 'objective = { label_smoothing = 0.3 }\n"optim" = { steps = 4 }'))
    overrides = {"train": {"objectives": ["supervised"]}}
    pipeline = load(path, overrides)
    assert pipeline.options_of("supervised")["objective"] == {"label_smoothing": 0.1}
    assert pipeline.options["objective"] == {"label_smoothing": 0.3}


def test_the_command_prints_the_table(write, tmp_path, featcache):
    arguments = ("run", write(), "--trust", "--out", tmp_path / "out", "--device", "cpu")
    told = featcache(*arguments, "--set", "train.objectives=['linear']").output
    assert "[4/4] small/linear/num_labels=4/seed=1: " in told
    assert "\nsmall  4 in all  linear" in told
    assert told.splitlines()[-1] == f"report: {tmp_path / 'out' / 'report.html'}"
    refused = featcache(*arguments, "--set", "train.objectves=['linear']", code=1).output
    assert refused.startswith("error: unknown key `train.objectves`")


def test_the_description_is_followed_by_what_was_changed(write, tmp_path):
    said = []
    overrides = {"train.seeds": [3], "options": {"optim.steps": 2}}
    run_pipeline(write(), out=tmp_path / "o", device="cpu", trust=True, overrides=overrides, say=said.append)
    assert said[:2] == ["Cats and dogs.", "changed for this run: train.seeds = [3], options.optim.steps = 2"]
