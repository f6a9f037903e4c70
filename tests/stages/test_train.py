"""`train` from request to result: every objective, every refusal, and no test row in the training."""

import json

import pytest
import torch
from safetensors.torch import load_file

from featcache import plugins
from featcache.errors import CacheError, ConfigError, TrainError
from featcache.runs.run import RunFolder
from featcache.stages.extract import extract
from featcache.stages.train import run_training
from featcache.training.request import TrainRequest

pytestmark = pytest.mark.usefixtures("one_thread")
OBJECTIVES = plugins.names("objectives")
TRAINED = ["supervised", "twinturbo"]


@pytest.fixture(scope="module")
def cache(make_cache, tmp_path_factory):
    """With a text tower and weak views; not to be changed."""
    return make_cache(tmp_path_factory.mktemp("train") / "cache.zarr", text=True, weak=2, dtype="float16")


@pytest.fixture(scope="module")
def other_test(make_cache, tmp_path_factory):
    """The same but for the test split: other labels, and so other features."""
    splits = {"train": [row % 3 for row in range(30)], "test": [(row + 1) % 3 for row in range(12)]}
    path = tmp_path_factory.mktemp("train") / "other.zarr"
    return make_cache(path, splits=splits, text=True, weak=2, dtype="float16")


@pytest.fixture(scope="module")
def kinds(make_cache, tmp_path_factory):
    """Caches of several kinds."""
    folder = tmp_path_factory.mktemp("kinds")
    return {
        "text": make_cache(folder / "text.zarr", dtype="bfloat16", mask=True),
        "narrow": make_cache(folder / "narrow.zarr", dtype="float16", pooled=6),
        "strong": make_cache(folder / "strong.zarr", weak=1, strong=1),
    }


@pytest.fixture
def learn(tmp_path):
    """Trains for three steps into a folder; returns the result."""

    def go(cache, objective="supervised", *, out="run", seed=0, device="cpu", set=None, **labels):
        options = {"projector": {"heads": 2}, "optim": {"steps": 3, "batch_size": 4}, **(set or {})}
        request = TrainRequest(cache, objective, seed, options=options, **(labels or {"labels_per_class": 2}))
        return run_training(request, tmp_path / out, device=device)

    return go


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_gives_a_result(cache, learn, tmp_path, objective):
    result = learn(cache, objective, set={} if objective not in TRAINED else None)
    assert RunFolder(tmp_path / "run").result() == result
    assert result["objective"] == objective
    assert (result["seed"], result["num_labels"], result["test"]["samples"]) == (0, 6, 18)
    assert {"accuracy", "nll", "ece", "balanced_accuracy", "macro_f1"} < result["test"].keys()
    assert 0 <= result["test"]["accuracy"] <= 1
    assert 0 <= result["test"]["ece"] <= 1
    assert result["test"]["nll"] >= 0
    assert result["seconds"] > 0


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_test_rows_never_take_part(cache, other_test, learn, tmp_path, objective):
    """Another test split changes the figures and nothing else that is written."""
    files = []
    for name, used in (("a", cache), ("b", other_test)):
        learn(used, objective, out=name)
        written = tmp_path / name
        labels = (written / "labels.json").read_text()
        tensors = load_file(written / "checkpoint.safetensors") if objective in TRAINED else {}
        files.append((labels, {key: value.tolist() for key, value in tensors.items()}))
    assert files[0] == files[1]


@pytest.mark.parametrize("objective", [name for name in OBJECTIVES if name != "zero_shot"])
def test_a_class_without_a_labelled_row(make_cache, learn, tmp_path, objective):
    splits = {"train": [0, 1, 0, 1, -1, -1, 0, 1], "test": [0, 1, 2, 2]}
    result = learn(make_cache(tmp_path / "c.zarr", splits=splits), objective, num_labels=4)
    assert result["num_labels"] == 4
    assert result["test"]["per_class"].keys() == {"cat", "dog", "owl"}


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_one_class_only(make_cache, learn, tmp_path, objective):
    splits = {"train": [0] * 5, "test": [0] * 3}
    cache = make_cache(tmp_path / "c.zarr", splits=splits, classes=("cat",), text=True)
    with pytest.raises(TrainError, match="only one class has labels") as caught:
        learn(cache, objective, labels_per_class=3)
    assert caught.value.got == "5 samples of `cat`"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("objective", TRAINED)
def test_unlabelled_rows_are_trained_on_without_labels(make_cache, learn, tmp_path, objective):
    splits = {"train": [0, 1, 2, 0, 1, 2] + [-1] * 20, "test": [0, 1, 2, -1]}
    result = learn(make_cache(tmp_path / "c.zarr", splits=splits), objective, num_labels=6)
    assert (result["num_labels"], result["test"]["samples"]) == (6, 3)
    assert json.loads((tmp_path / "run" / "labels.json").read_text())["rows"] == list(range(6))


@pytest.mark.parametrize("objective", TRAINED)
@pytest.mark.parametrize("kind", ["text", "narrow", "strong"])
def test_every_kind_of_cache(kinds, learn, objective, kind):
    assert learn(kinds[kind], objective)["num_labels"] == 6


def test_residency_does_not_change_a_bit(cache, learn, tmp_path):
    tests, tensors = [], []
    for residency in ("stream", "ram", "device"):
        tests.append(learn(cache, "twinturbo", out=residency, set={"data": {"residency": residency}})["test"])
        tensors.append(load_file(tmp_path / residency / "checkpoint.safetensors"))
    assert tests[0] == tests[1] == tests[2]
    assert all(torch.equal(value, other[name]) for other in tensors[1:] for name, value in tensors[0].items())


def test_layers_and_other_splits(make_cache, learn, tmp_path):
    splits = {"first": [0, 1, 2] * 4, "last": [0, 1, 2]}
    cache = make_cache(tmp_path / "c.zarr", splits=splits, layers=(-1, -2))
    data = {"train": "first", "test": "last", "layer": -2}
    assert learn(cache, set={"data": data})["test"]["samples"] == 3


REFUSALS = [
    (
        {"objective": "twinturb"},
        ConfigError,
        r"no objective is called `twinturb`[\s\S]*mean `twinturbo`\? known:",
    ),
    ({"set": {"optim": {"stepz": 5}}}, ConfigError, r"unknown key `optim\.stepz`[\s\S]*did you mean `steps`"),
    (
        {"set": {"optim": {"steps": 0}}},
        ConfigError,
        r"`optim\.steps`[\s\S]*got: +0\n[\s\S]*greater than or equal",
    ),
    (
        {"set": {"optim": {"lr": "fast"}}},
        ConfigError,
        r"`optim\.lr`[\s\S]*got: +'fast'\n[\s\S]*a valid number",
    ),
    ({"set": {"optim": {"lr": float("nan")}}}, ConfigError, r"`optim\.lr`[\s\S]*finite number"),
    (
        {"set": {"data": {"residency": "gpu"}}},
        ConfigError,
        r"`data\.residency`[\s\S]*'stream', 'ram' or 'device'",
    ),
    ({"set": {"objective": {"tau": 1}}}, ConfigError, r"unknown key `tau` in the options of `supervised`"),
    ({"objective": "knn", "set": {"objective": {"k": 0}}}, ConfigError, r"`k` in the options of `knn`"),
    ({"set": {"projector": {"heads": 3}}}, ConfigError, r"heads=3, width 8[\s\S]*\[1, 2, 4, 8\]"),
    ({"set": {"data": {"layer": -2}}}, ConfigError, r"does not hold this layer[\s\S]*layer -2"),
    ({"set": {"data": {"test": "train"}}}, TrainError, r"the same[\s\S]*got: +train[\s\S]*data\.test"),
    ({"set": {"data": {"test": "val"}}}, TrainError, r"no split `val` to test on[\s\S]*got: +test, train\n"),
    ({"set": {"data": {"train": "val"}}}, TrainError, r"no split `val` to train on[\s\S]*data\.train"),
    (
        {"labels_per_class": 11},
        TrainError,
        r"labels_per_class=11\b.*\b10\n[\s\S]*num_labels",
    ),
    ({"num_labels": 31}, TrainError, r"num_labels=31[\s\S]*1 to 30"),
    ({"labels_per_class": 1, "num_labels": 1}, TrainError, "at most one"),
    ({"seed": -1}, TrainError, r"seed[\s\S]*seed=-1\n +expected: 0 to"),
    ({"seed": 2**32}, TrainError, r"seed[\s\S]*seed=4294967296"),
    ({"device": "gpu"}, ConfigError, r"no such device[\s\S]*got: +gpu\n +expected: auto, cpu"),
]


@pytest.mark.parametrize(("request_", "error", "message"), REFUSALS)
def test_refusals_write_nothing(cache, learn, tmp_path, request_, error, message):
    with pytest.raises(error, match=message):
        learn(cache, **request_)
    assert not (tmp_path / "run").exists()


def truncate(split):
    shard = max((split / "tokens" / "c").rglob("*"), key=lambda file: (file.is_file(), str(file)))
    shard.write_bytes(shard.read_bytes()[:-5])
    return shard.name


def remove(split):
    shard = max((split / "pooled" / "c").rglob("*"), key=lambda file: (file.is_file(), str(file)))
    shard.unlink()
    return f"{shard.name} is damaged\n  got:      no such file"


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("damage", [truncate, remove])
def test_a_damaged_cache(make_cache, learn, tmp_path, damage, split):
    cache = make_cache(tmp_path / "c.zarr")
    named = damage(cache / split)
    with pytest.raises(CacheError, match=rf"{named}[\s\S]*expected: [\s\S]*next: "):
        learn(cache)
    assert not (tmp_path / "run").exists()


def test_an_unfinished_cache(make_cache, learn, tmp_path):
    with pytest.raises(CacheError, match=r"train is not complete[\s\S]*got: +1 of 2 units[\s\S]*rerun"):
        learn(make_cache(tmp_path / "c.zarr", unwritten=1))


@pytest.mark.parametrize("name", ["missing.zarr", "folder", "file"])
def test_no_cache_at_all(learn, tmp_path, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(CacheError, match=rf"no featcache cache at .*{name}[\s\S]*featcache extract"):
        learn(tmp_path / name)


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({"train": [-1] * 6, "test": [0]}, r"no labels to draw from[\s\S]*0 labelled[\s\S]*label_column"),
        (
            {"train": [0, 1] * 3, "test": [0]},
            r"the class `owl`[\s\S]*has 0\n[\s\S]*num_labels",
        ),
    ],
)
def test_a_cache_that_does_not_suffice(make_cache, learn, tmp_path, splits, message):
    with pytest.raises(TrainError, match=message):
        learn(make_cache(tmp_path / "c.zarr", splits=splits))
    assert not (tmp_path / "run").exists()


def test_every_row_failed(make_cache, learn, tmp_path):
    with pytest.raises(TrainError, match="30 rows, 0 usable, 30 labelled"):
        learn(make_cache(tmp_path / "c.zarr", failed={"train": range(30)}))


def test_the_command_prints_the_figures_and_refuses_without_a_traceback(cache, featcache, tmp_path):
    arguments = ("train", cache, "--objective", "knn", "--num-labels", 9, "--device", "cpu")
    told = featcache(*arguments, "--out", tmp_path / "run", "--set", "objective.k=3", "--seed", 4).output
    assert "knn, 9 labels, seed 4: accuracy " in told
    assert json.loads((tmp_path / "run" / "config.json").read_text())["options"]["objective"]["k"] == 3
    refused = featcache(*arguments, "--out", tmp_path / "run", code=1)
    assert refused.output.startswith("error: ")
    assert "holds another run" in refused.output


def test_cls_is_refused_where_there_is_none(frozen, photos, tmp_path):
    extract(photos, frozen("tiny"), tmp_path / "c.zarr", tokens="patch", num_workers=0)
    request = TrainRequest(
        tmp_path / "c.zarr", "supervised", labels_per_class=1, options={"projector": {"pool": "cls"}}
    )
    with pytest.raises(TrainError, match=r"no CLS token[\s\S]*expected: attention, mean or gem"):
        run_training(request, tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_what_a_result_says_of_its_calibration(cache, learn):
    """Few labels and no folds: never surer than it was. Held out, a temperature may go either way."""
    plain, folded = learn(cache, out="plain"), learn(cache, out="folded", set={"cv": 2})
    assert plain["held_out"] is None
    assert 1 <= plain["temperature"] <= 20
    assert folded["held_out"].keys() == {"accuracy", "nll"}
    assert 0.05 <= folded["temperature"] <= 20
    for result in (plain, folded):
        test = result["test"]
        assert sum(test["reliability"]["before"]["count"]) == test["samples"]
        assert {"nll_scaled", "ece_scaled"} < test.keys()
    assert plain["scores"].keys() >= {"silhouette", "rankme", "agreement"}
    assert plain["scores"] == folded["scores"]
    assert plain["test"]["nll"] == folded["test"]["nll"]


def test_one_label_of_a_class_cannot_be_held_out(cache, learn):
    assert learn(cache, "knn", labels_per_class=1)["held_out"] is None
    assert learn(cache, "knn", out="two", labels_per_class=2)["held_out"] is not None


def test_folds_are_gone_when_the_run_is_done(cache, learn, tmp_path):
    learn(cache, set={"cv": 2})
    assert not list((tmp_path / "run").glob("fold=*"))
