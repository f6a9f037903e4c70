"""Options: parsed, overridden, compared, and explained when they do not fit; errors and plugins."""

import pickle
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featcache import plugins
from featcache.config import Config, did_you_mean, flatten, merge, option_names, parse_overrides
from featcache.errors import CacheMismatch, ConfigError, FeatcacheError, MissingExtra, SampleError
from featcache.training.recipe import objective_class, parse_options

KEYS = st.text("abc", min_size=1, max_size=2)
TREES = st.recursive(
    st.dictionaries(KEYS, st.integers(0, 9), max_size=3),
    lambda below: st.dictionaries(KEYS, st.integers(0, 9) | below, max_size=3),
    max_leaves=8,
)


class Inner(Config):
    rate: float = 0.1
    size: int | tuple[float, ...] = 1


class Outer(Config):
    inner: Inner = Inner()
    tables: dict[str, Inner] = {}  # noqa: RUF012
    name: str


def copied(tree):
    return {key: copied(value) if isinstance(value, dict) else value for key, value in tree.items()}


@given(TREES, TREES)
def test_merging_lays_one_over_the_other(below, above):
    before = copied(above)
    merged = flatten(merge(copied(below), above))
    assert above == before
    for name, value in flatten(above).items():
        if value != {}:
            assert merged[name] == value
    for name, value in merged.items():
        assert value == {} or value in (flatten(above).get(name), flatten(below).get(name))


@given(TREES, TREES, TREES)
def test_merging_never_changes_what_is_laid_over(first, second, third):
    before = copied(second)
    merge(merge(copied(first), second), third)
    assert second == before


@pytest.mark.parametrize(
    ("pairs", "tree"),
    [
        (["a.b=1", "a.c = 2.5", "d=[1, 2]"], {"a": {"b": 1, "c": 2.5}, "d": [1, 2]}),
        (["a=word", 'b="1"', "c=true", "d=1e-3"], {"a": "word", "b": "1", "c": True, "d": 1e-3}),
        (["a=x=y", "b="], {"a": "x=y", "b": ""}),
        (["a=1", "a.b=2"], {"a": {"b": 2}}),
        (["a.b=2", "a=1"], {"a": 1}),
        (["a=hf:PATH@32", "b=/data/my set"], {"a": "hf:PATH@32", "b": "/data/my set"}),
    ],
)
def test_overrides(pairs, tree):
    assert parse_overrides(pairs) == tree


@pytest.mark.parametrize("pair", ["a", "=1", "  = 1"])
def test_an_override_that_is_none(pair):
    with pytest.raises(ConfigError, match="must be key=value"):
        parse_overrides([pair])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, r"^`name` is missing in the file$"),
        (
            {"name": "n", "inner": {"rat": 1}},
            r"^unknown key `inner\.rat` in the file\n +next: +did you mean `rate`",
        ),
        (
            {"name": "n", "tables": {"t": {"rat": 1}}},
            r"^unknown key `tables\.t\.rat`.*\n +next: +did you mean `rate`",
        ),
        ({"name": "n", "tables": {"t": {"x": {"y": 1}}}}, r"`tables\.t\.x`.*\n +next: +known: rate, size$"),
        (
            {"name": "n", "inner": {"rate": "Fast"}},
            r"^`inner\.rate` .*\n +got: +'Fast'\n +expected: a valid number",
        ),
        ({"name": "n", "inner": {"rate": float("inf")}}, r"expected: a finite number$"),
        ({"name": "n", "inner": {"size": "x"}}, r"^`inner\.size` in the file is not valid"),
        ({"name": "n", "inner": {"size": [1, "x"]}}, r"^`inner\.size"),
        ({"name": "n", "inner": 3}, r"^`inner` in the file is not valid\n +got: +3"),
    ],
)
def test_explanations(values, message):
    with pytest.raises(ConfigError) as raised:
        Outer.parse(values, "the file")
    assert re.search(message, str(raised.value)), str(raised.value)


def test_digest_and_difference():
    a, b = Outer(name="a", inner=Inner(rate=1)), Outer(name="a", inner=Inner(rate=2), tables={"t": Inner()})
    assert a.digest() == Outer.parse({"inner": {"size": 1, "rate": 1.0}, "name": "a"}).digest() != b.digest()
    assert ("inner.rate", 1.0, 2.0) in a.diff(b)
    assert list(a.diff(a)) == []


def test_suggestions():
    assert did_you_mean("kn", ["linear", "knn"]) == "did you mean `knn`? known: knn, linear"
    assert did_you_mean("zzz", ["linear"]) == "known: linear"
    assert did_you_mean("zzz", []) == ""


@pytest.mark.parametrize("kind", [FeatcacheError, CacheMismatch, SampleError, MissingExtra])
def test_errors_survive_the_trip_from_a_worker(kind):
    error = kind("what", got=[1], expected=0, hint="next")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert str(again) == str(error) == "what\n  got:      [1]\n  expected: 0\n  next:     next"
    assert (again.got, again.expected, again.hint) == ("[1]", "0", "next")


def test_a_missing_extra_says_how_to_get_it():
    assert "pip install 'featcache[hf]'" in str(MissingExtra.of("transformers", "hf"))


def test_plugins_are_files():
    assert {"knn", "linear", "supervised", "twinturbo", "zero_shot"} <= set(plugins.names("objectives"))
    assert not any(name.startswith("_") or name == "base" for name in plugins.names("objectives"))
    for name in plugins.names("objectives"):
        assert plugins.find("objectives", name).objective.Options().digest()


def test_a_plugin_from_another_package(tmp_path, monkeypatch):
    """Installed, as pip would: a module and the metadata that names it."""
    (tmp_path / "their_objective.py").write_text("from featcache.objectives.knn import objective\n")
    info = tmp_path / "theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[featcache.objectives]\nours = their_objective\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "ours" in plugins.names("objectives")
    assert plugins.find("objectives", "ours").__name__ == "their_objective"
    with pytest.raises(ConfigError, match="did you mean `ours`"):
        plugins.find("objectives", "our")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"no such Python file[\s\S]*mine\.py"),
        ("x = 1\ny = (", r"cannot be imported[\s\S]*SyntaxError: .*line 2"),
        ("x = 1\nimport no_such_package", r"ModuleNotFoundError: .*no_such_package.*line 2"),
        ("x = 1", r"gives no objective[\s\S]*objective = CLASS"),
        ("objective = dict", r"gives no objective[\s\S]*<class 'dict'>"),
    ],
)
def test_a_file_that_is_no_objective(tmp_path, text, message):
    if text is not None:
        (tmp_path / "mine.py").write_text(text)
    with pytest.raises(ConfigError, match=message):
        objective_class(f"python:{tmp_path / 'mine.py'}")


@pytest.mark.parametrize(
    ("options", "meant"),
    [
        ({"lr": 0.1}, "optim.lr"),
        ({"w_ent": 1}, "objective.w_ent"),
        ({"objective": {"lr": 0.1}}, "optim.lr"),
        ({"data": {"steps": 3}}, "optim.steps"),
        ({"step": 3}, "optim.steps"),
        ({"optim": {"stepz": 3}}, "steps"),
        ({"optim": {"amp": "fp16"}}, "bfloat16"),
    ],
)
def test_an_option_in_the_wrong_place_is_found(options, meant):
    with pytest.raises(ConfigError, match=rf"did you mean `{re.escape(meant)}`\?"):
        parse_options("twinturbo", options)


def test_a_constructor_explains_itself_as_parsing_does():
    with pytest.raises(ConfigError, match=r"`inner\.rate` in Outer is not valid\n +got: +'x'"):
        Outer(name="a", inner={"rate": "x"})
    with pytest.raises(ConfigError, match=r"unknown key `rat` in Inner\n.*mean `rate`"):
        Inner(rat=1)
    tables = {"tables": {"a": {}}}
    assert option_names(Outer, tables) == [
        "inner.rate",
        "inner.size",
        "tables.a.rate",
        "tables.a.size",
        "name",
    ]
