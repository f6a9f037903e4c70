"""Run folders side by side: each row holds equal runs, and the table is that of a study."""

import html
import json
import shutil
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featcache.errors import ConfigError, DamagedRun, MissingExtra
from featcache.results.compare import compare
from featcache.results.distinguish import name_data, name_settings
from featcache.results.run_folders import FinishedRun
from featcache.stages.pipeline import run_pipeline

FINGERPRINT = "410b57e5" + "0" * 56
SPLITS = {"train": {"source": "a" * 64, "rows": 30}, "test": {"source": "b" * 64, "rows": 20}}


def config(objective="linear", seed=0, *, per_class=4, cache=FINGERPRINT, splits=None, own=None, **data):
    """A configuration as runs have kept it since before the second cache was called `replay`."""
    return {
        "objective": objective,
        "seed": seed,
        "labels_per_class": per_class,
        "num_labels": None if per_class else 24,
        "cache": cache,
        "splits": splits or SPLITS,
        "device": "cpu",
        "options": {
            "cv": 0,
            "objective": own or {},
            "optim": {"steps": 200},
            "data": {"train": "train", "test": "test", "imbalance": 1.0, "source": None, **data},
        },
    }


def result(asked, accuracy):
    figures = {"accuracy": accuracy / 100, "nll": 1.0, "ece": 0.1, "nll_scaled": 0.5, "ece_scaled": 0.05}
    return {
        "objective": asked["objective"],
        "seed": asked["seed"],
        "labels_per_class": asked["labels_per_class"],
        "num_labels": 12 if asked["labels_per_class"] else 24,
        "test": figures,
        "seconds": 2.0,
        "encoder": "glyph-clip",
        "fingerprint": asked["cache"],
    }


@pytest.fixture
def make(tmp_path):
    """Writes a run folder; without an accuracy, one that is not finished."""

    def go(name, accuracy=None, place=None, **asked):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(config(**asked)))
        environment = {"python": "3.13.0"} | ({"cache": place} if place else {})
        (folder / "environment.json").write_text(json.dumps(environment))
        if accuracy is not None:
            (folder / "result.json").write_text(json.dumps(result(config(**asked), accuracy)))
        return folder

    return go


def named(comparison):
    return [(row.cache, row.budget.label, row.method, row.accuracy) for row in comparison.rows]


def test_runs_of_earlier_versions_come_with_encoder_and_fingerprint(make, tmp_path):
    for seed in (0, 1, 10, 9):
        make(f"knn-{seed}", 50.0 + seed, objective="knn", seed=seed)
        make(f"fixmatch-{seed}", 60.0 + seed, objective="fixmatch", seed=seed)
    found = compare(f"{tmp_path}/runs/*")
    assert named(found) == [
        ("glyph-clip 410b57e5", "4/class", "knn", pytest.approx((50.0, 51.0, 59.0, 60.0))),
        ("glyph-clip 410b57e5", "4/class", "fixmatch", pytest.approx((60.0, 61.0, 69.0, 70.0))),
    ]
    assert found.rows[1].differences["knn"].mean == pytest.approx(10.0)
    assert found.rows[1].best_control == "knn"
    assert "Only 4 label draws" in repr(found)
    assert not found.skipped


def test_a_cache_is_named_by_its_folder(make, tmp_path):
    make("a", 50.0, place="/data/photos.zarr")
    make("b", 60.0, seed=1)
    make("c", 70.0, per_class=None)
    assert named(compare(tmp_path / "runs/*")) == [
        ("photos", "4/class", "linear", pytest.approx((50.0, 60.0))),
        ("photos", "24 in all", "linear", pytest.approx((70.0,))),
    ]


def test_caches_of_one_name_are_told_apart(make, tmp_path):
    other = {**SPLITS, "train": {"source": "c" * 64, "rows": 99}}
    make("a", 50.0, place="/one/photos.zarr")
    make("b", 60.0, place="/two/photos.zarr", cache="77777777" + "1" * 56)
    make("c", 70.0, place="/three/photos.zarr", splits=other)
    caches = [row.cache for row in compare(f"{tmp_path}/runs/*").rows]
    assert caches[1] == "photos 77777777"
    assert [name.startswith("photos 410b57e5 ") for name in caches] == [True, False, True]
    assert len(set(caches)) == 3


def test_other_options_are_other_rows(make, tmp_path):
    for seed, accuracy in ((0, 60.0), (1, 61.0)):
        make(f"a{seed}", accuracy, objective="twinturbo", seed=seed, own={"w_ent": 0.3, "mode": "x"})
        make(f"b{seed}", accuracy, objective="twinturbo", seed=seed, own={"w_ent": 10.0, "mode": "x"})
        make(f"c{seed}", accuracy - 10, objective="linear", seed=seed)
    found = compare(f"{tmp_path}/runs/*")
    assert [row.method for row in found.rows] == ["linear", "twinturbo w_ent=0.3", "twinturbo w_ent=10.0"]
    assert [len(row.accuracy) for row in found.rows] == [2, 2, 2]
    assert found.rows[2].differences["linear"].mean == pytest.approx(10.0)
    assert (found.rows[2].objective, found.rows[2].setting) == ("twinturbo", "w_ent=10.0")


def test_tasks_that_differ_are_not_compared_with_each_other(make, tmp_path):
    make("a", 50.0)
    make("b", 30.0, imbalance=10.0)
    make("c", 60.0, objective="fixmatch", place="/data/photos.zarr")
    make("d", 45.0, objective="fixmatch", imbalance=10.0)
    found = {row.cache: row for row in compare(f"{tmp_path}/runs/*").rows if row.objective == "fixmatch"}
    plain, tail = (f"photos+imbalance={ratio}" for ratio in (1.0, 10.0))
    assert found[plain].differences["linear"].mean == pytest.approx(10.0)
    assert found[tail].differences["linear"].mean == pytest.approx(15.0)


def test_a_folder_that_is_no_finished_run_is_skipped_with_its_reason(make, tmp_path):
    make("done", 50.0)
    make("unfinished", seed=1)
    (make("other", 50.0, seed=3) / "result.json").write_text('{"test": {}}')
    (tmp_path / "runs" / "empty").mkdir()
    (tmp_path / "runs" / "results.md").write_text("a file is no folder")
    found = compare(f"{tmp_path}/runs/*")
    reasons = {Path(folder).name: reason for folder, reason in found.skipped.items()}
    assert reasons.keys() == {"unfinished", "other", "empty"}
    for name, fact in (("unfinished", "result.json"), ("other", "seconds"), ("empty", "config.json")):
        assert fact in reasons[name]
    assert len(found.rows) == 1
    assert "Skipped: " in repr(found)
    (tmp_path / "runs" / "more").mkdir()
    assert "and 1 more" in repr(compare(f"{tmp_path}/runs/*"))
    everywhere = compare(f"{tmp_path}/**")
    assert {Path(folder).name for folder in everywhere.skipped} == {"unfinished", "other"}
    assert everywhere.rows == found.rows


@pytest.mark.parametrize("name", ["config.json", "environment.json", "result.json"])
@pytest.mark.parametrize(
    "content", ["{", '{"test": 1, "seed": "1", "cache": 1}', "[" * 100_000, "\0" * 99, ""]
)
def test_a_damaged_run_is_never_left_out(make, tmp_path, name, content):
    make("done", 50.0)
    (make("damaged", 50.0, seed=2) / name).write_text(content)
    with pytest.raises(DamagedRun, match=rf"damaged/{name}"):
        compare(f"{tmp_path}/runs/*")


def test_without_a_finished_run_it_says_what_was_found(make, tmp_path):
    folder = make("unfinished")
    with pytest.raises(ConfigError, match=r"unfinished: .*result\.json"):
        compare(f"{tmp_path}/runs/*")
    with pytest.raises(ConfigError, match="nowhere"):
        compare(folder / "nowhere/*")
    with pytest.raises(ConfigError, match="no such folder"):
        compare(folder / "nowhere")
    with pytest.raises(ConfigError):
        compare([])
    with pytest.raises(ConfigError, match="s3://"):
        compare("s3://bucket/runs/*")
    with pytest.raises(TypeError, match="3"):
        compare([3])


def test_paths_patterns_and_objects_with_a_path_name_the_same_runs(make, tmp_path):
    folders = [make(f"w=[{seed}]", 50.0 + seed, seed=seed) for seed in range(3)]

    class Opened:
        def __init__(self, path):
            self.path = path

    whole = compare(f"{tmp_path}/runs/*")
    assert compare(folders) == compare(map(Opened, folders)) == compare([str(f) for f in folders]) == whole
    assert compare([folders[0], f"{tmp_path}/runs/*", Opened(folders[1])]) == whole
    assert compare(Opened(folders[0])).rows[0].accuracy == (50.0,)


def test_a_run_inside_a_run_is_a_part_of_it(make, tmp_path):
    make("a", 50.0)
    make("a/fold=0", 10.0, seed=1)
    found = compare(f"{tmp_path}/**")
    assert found.rows[0].accuracy == (50.0,)
    assert not found.skipped


def test_numbers_are_sorted_as_numbers(make, tmp_path):
    for number in (10, 9):
        make(f"w{number}", 50.0, own={"w": number})
        make(f"cache{number}", 50.0, objective="knn", place=f"/{number}.zarr", cache=f"{number:064}")
    rows = compare(f"{tmp_path}/runs/*").rows
    assert [row.cache for row in rows if row.objective == "knn"] == ["9", "10"]
    assert [row.setting for row in rows if row.objective == "linear"] == ["w=9", "w=10"]


def test_a_copy_counts_once_and_a_contradiction_is_refused(make, tmp_path):
    folder = make("a", 50.0)
    shutil.copytree(folder, tmp_path / "runs" / "b")
    found = compare(f"{tmp_path}/runs/*")
    assert found.rows[0].accuracy == (50.0,)
    assert found.skipped == {f"{tmp_path}/runs/b": f"the same run as {folder}"}
    make("c", 51.0)
    with pytest.raises(ConfigError, match=f"{folder} and {tmp_path}/runs/c"):
        compare(f"{tmp_path}/runs/*")


def test_as_json_and_html(make, tmp_path):
    make("a", 50.0, place="/data/<b>&.zarr")
    make("b", 70.0, objective="fixmatch")
    make("c <i>")
    found = compare(f"{tmp_path}/runs/*")
    said = json.loads(json.dumps(found.as_dict()))
    assert said == found.as_dict()
    assert said["rows"][1]["differences"]["linear"] == {"mean": 20.0, "half_width": None, "clear": False}
    assert [row["objective"] for row in said["rows"]] == ["linear", "fixmatch"]
    text = found._repr_html_()
    assert html.escape("<b>&") in text
    assert "<b>&" not in text
    assert "c &lt;i&gt;" in text
    assert text.count("<tr>") == 3


def test_as_a_data_frame(make, tmp_path):
    pytest.importorskip("pandas")
    for seed in (0, 1):
        make(f"a{seed}", 50.0 + seed, seed=seed)
        make(f"b{seed}", 60.0 + seed, seed=seed, objective="fixmatch")
    frame = compare(f"{tmp_path}/runs/*").to_pandas()
    assert frame["objective"].tolist() == ["linear", "fixmatch"]
    assert frame["accuracy"].tolist() == pytest.approx([50.5, 60.5])
    assert frame["minus linear"].tolist()[1] == pytest.approx(10.0)
    assert frame["minus linear ±"].isna().tolist() == [True, False]


def test_without_pandas_it_says_what_to_install(make, tmp_path, monkeypatch):
    make("a", 50.0)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingExtra, match="pip install pandas"):
        compare(f"{tmp_path}/runs/*").to_pandas()


VALUES = st.sampled_from([None, True, "true", 1, 1.0, "1", "a", "a,b=1", "null"])
CONFIGS = st.builds(
    config,
    objective=st.sampled_from(["linear", "twinturbo"]),
    cache=st.sampled_from(["a" * 64, "a" * 63 + "b", "c" * 64]),
    splits=st.sampled_from([SPLITS, {**SPLITS, "test": {"source": "d" * 64, "rows": 20}}]),
    own=st.fixed_dictionaries({}, optional={"b": VALUES, "w": VALUES}),
    imbalance=st.sampled_from([1.0, 10.0]),
)
PLACES = st.sampled_from([None, "/x/photos.zarr", "/y/photos.zarr", "/x/photos aaaaaaaa"])


@given(st.lists(st.tuples(CONFIGS, PLACES), min_size=1, max_size=8))
def test_runs_share_a_name_only_where_they_are_equal(asked):
    runs = [FinishedRun(Path(), c, result(c, 50.0), place) for c, place in asked]
    names = [*zip(name_data(runs), name_settings(runs), strict=True)]

    def cache(c):
        return json.dumps([c["cache"], c["splits"], c["options"]["data"]["imbalance"]])

    def options(c):
        return json.dumps([c["options"]["objective"].get(key) for key in "bw"])

    for (mine, my_setting), (a, _) in zip(names, asked, strict=True):
        for (other, other_setting), (b, _) in zip(names, asked, strict=True):
            assert (mine == other) == (cache(a) == cache(b))
            if a["objective"] == b["objective"]:
                assert (my_setting == other_setting) == (options(a) == options(b))


FILE = """
[extract.small]
source = "{source}"
model = "{model}"
num_workers = 0

[condition.plain]
[condition.tail]
data.imbalance = 2

[train]
objectives = ["supervised"]
labels_per_class = [1, 2]
num_labels = [4]
seeds = [0, 1]

[options]
optim.steps = 2
projector.heads = 2
"""


@pytest.mark.usefixtures("one_thread")
def test_the_table_is_that_of_the_study_which_made_the_runs(photos, frozen, tmp_path, edit_run):
    (tmp_path / "small.toml").write_text(FILE.format(source=photos, model=frozen("tiny")))
    out = tmp_path / "out"
    study = run_pipeline(str(tmp_path / "small.toml"), out=out, device="cpu", trust=True)
    for file in out.rglob("environment.json"):
        edit_run(file.parent, file.name, cache=str(out / "caches" / "small.zarr"))
    found = compare(out / "**")
    table = (out / "results.md").read_text()
    for name, option in (("plain", "imbalance=1.0"), ("tail", "imbalance=2.0")):
        table = table.replace(f"small+{name}", f"small+{option}")
    assert found.markdown() == table
    assert [row.differences for row in found.rows] == [row.differences for row in study.rows]
    assert [row.accuracy for row in found.rows] == [row.accuracy for row in study.rows]
    assert not found.skipped
