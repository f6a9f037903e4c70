"""A run's config.json fed back, and files of options."""

import json

import pytest

from featcache.errors import ConfigError
from featcache.training.config_file import asked_by, options_for, read_config

CONFIG = {
    "objective": "linear",
    "seed": 3,
    "labels_per_class": None,
    "num_labels": 12,
    "cache": "a" * 64,
    "splits": {},
    "device": "cpu",
    "options": {"cv": 3, "objective": {"C": 1.0}, "data": {"replay": None}},
}


def test_the_configuration_of_a_run(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    asked = read_config(tmp_path / "config.json")
    assert asked.options == CONFIG["options"]
    assert asked.arguments == {"objective": "linear", "seed": 3, "num_labels": 12}
    assert options_for("linear", CONFIG) == CONFIG["options"]
    with pytest.raises(ConfigError, match=r"another objective\n +got: +linear\n +expected: +knn"):
        options_for("knn", CONFIG)


def test_an_own_objective_is_the_copy_of_the_run(tmp_path):
    own = CONFIG | {"objective": "python:mine.py", "objective_file": "0" * 16}
    assert asked_by(own, tmp_path).arguments["objective"] == f"python:{tmp_path / 'mine.py'}"
    assert options_for("python:lab/mine.py", own) == CONFIG["options"]


def test_the_replay_cache_of_a_run_has_to_be_named():
    asked = asked_by(CONFIG | {"replay": {"cache": "b" * 64}})
    with pytest.raises(ConfigError, match=r"options=\{'data\.replay': 'PATH'\}"):
        asked.check(asked.options)
    asked.check({"data": {"replay": "r.zarr"}})


@pytest.mark.parametrize(
    ("name", "text"),
    [("o.json", '{"optim": {"lr": 0.1}}'), ("o.toml", "optim.lr = 0.1"), ("o.toml", '"optim.lr" = 0.1')],
)
def test_a_file_of_options(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert read_config(tmp_path / name) == asked_by({"optim": {"lr": 0.1}})


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("o.json", "{", r"o\.json is not JSON"),
        ("o.toml", "x =", r"o\.toml is not TOML"),
        ("o.json", "[1]", "options are a mapping"),
        ("none.toml", None, "cannot be read"),
    ],
)
def test_a_file_that_is_no_configuration(tmp_path, name, text, message):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_config(tmp_path / name)
