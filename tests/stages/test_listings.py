"""`featcache objectives` and `featcache options`: the facts of the code, for people and as JSON."""

import json

import pytest

import featcache as fc
from featcache import plugins
from featcache.config import parse_overrides
from featcache.training.recipe import parse_options

OWN = '''
"""Mine: cross-entropy, weighted (arXiv 2401.00001, eq. 2)."""

from typing import Literal

from featcache.config import Config
from featcache.objectives.base import Objective


class Base(Config):
    weight: float = 0.5
    """Weight of
    the loss."""


class Options(Base):
    mode: Literal["a", "b"] | None = None
    """How."""


class Mine(Objective[Options]):
    Options = Options


objective = Mine
'''


def test_every_objective_is_listed(featcache):
    found = json.loads(featcache("objectives", "--json").stdout)["objectives"]
    assert [facts["name"] for facts in found] == plugins.names("objectives")
    by = {facts["name"]: facts for facts in found}
    assert {name for name, facts in by.items() if facts["kind"] == "probe"} == {"knn", "linear", "zero_shot"}
    assert by["twinturbo"]["source"] == "arXiv 2503.07851"
    text = " ".join(featcache("objectives").stdout.split())
    assert all(facts["summary"] in text for facts in found)


def test_every_option_is_listed_with_values_that_are_accepted(featcache):
    options = fc.list_options("twinturbo")
    assert json.loads(featcache("options", "twinturbo", "--json").stdout)["options"] == [
        {**vars(option), "choices": list(option.choices)} for option in options
    ]
    text = featcache("options", "twinturbo").stdout
    assert all(f"\n{option.name}=" in f"\n{text}" for option in options)
    assert max(map(len, text.splitlines())) <= 110
    default = parse_options("twinturbo", {})
    for option in options:
        if option.default is not None:
            assert (
                parse_options("twinturbo", parse_overrides([f"{option.name}={_toml(option.default)}"]))
                == default
            )
        for choice in option.choices:
            parse_options("twinturbo", parse_overrides([f"{option.name}={choice}"]))
    assert "objective.w_ent" not in [option.name for option in fc.list_options()]


def _toml(value):
    return value if isinstance(value, str) else json.dumps(value)


def test_an_own_file_is_explained_by_its_docstrings(featcache, tmp_path):
    (tmp_path / "mine.py").write_text(OWN)
    weight, mode, *_ = fc.list_options(f"python:{tmp_path / 'mine.py'}")
    assert (weight.name, weight.default, weight.values) == ("objective.weight", 0.5, "number")
    assert weight.meaning == "Weight of the loss."
    assert (mode.default, mode.values, mode.choices) == (None, "a | b", ("a", "b"))
    with pytest.raises(fc.FeatcacheError, match="did you mean `twinturbo`"):
        fc.list_options("twinturb")
    assert "did you mean `linear`" in featcache("options", "linaer", code=1).stderr
