"""The options of an extraction stand in one place, and are the same in Python, in a file and as flags."""

from __future__ import annotations

import tomllib
from typing import Any

import click
import pytest
from click.testing import CliRunner

from featcache.cli import main
from featcache.errors import ConfigError
from featcache.extraction.options import ExtractOptions
from featcache.flags import flags_of
from featcache.specs import ViewSpec
from featcache.stages.pipeline import ExtractTable

SPELLED: dict[str, tuple[str, Any]] = {
    "split": ("train", "train"),
    "views": ("weak=1,strong=2,flip=0", ViewSpec(weak=1, strong=2, flip=0)),
    "tokens": ("grid:2x3", "grid:2x3"),
    "layers": ("-1|-2", (-1, -2)),
    "dtype": ("int8", "int8"),
    "amp": ("bfloat16", "bfloat16"),
    "limit": ("7", 7),
    "label_column": ("y", "y"),
    "label_from": ("LABEL/*", "LABEL/*"),
    "no_labels": ("", True),
    "batch_size": ("auto", "auto"),
    "num_workers": ("0", 0),
    "shard_size": ("512", "512"),
}


@pytest.mark.parametrize("name", ExtractOptions.model_fields)
def test_a_field_is_a_flag_and_a_key_with_one_default(name: str) -> None:
    field = ExtractOptions.model_fields[name]
    command = main.commands["extract"]
    (flag,) = (option for option in command.get_params(click.Context(command)) if option.name == name)
    assert flag.opts == ["--layer" if name == "layers" else f"--{name.replace('_', '-')}"]
    assert isinstance(flag, click.Option)
    assert flag.help == field.description
    default = getattr(ExtractOptions(), name)
    assert getattr(ExtractOptions.of({name: flag.default}), name) == default
    assert getattr(ExtractTable(source="digits", model="m"), name) == default
    assert ExtractTable.model_fields.keys() - ExtractOptions.model_fields.keys() == {
        "source",
        "model",
        "cache",
        "labels",
    }


@pytest.mark.parametrize("name", ExtractOptions.model_fields)
def test_a_flag_arrives_as_it_is_written(name: str) -> None:
    text, value = SPELLED[name]
    got: dict[str, Any] = {}
    command = click.Command(
        "x", params=list(flags_of(ExtractOptions)), callback=lambda **given: got.update(given)
    )
    flag = next(option.opts[0] for option in command.params if option.name == name)
    result = CliRunner().invoke(command, [flag, text] if text else [flag])
    assert result.exit_code == 0, result.output
    options = ExtractOptions.of(got)
    assert getattr(options, name) == value
    assert options.model_dump(exclude={name}) == ExtractOptions().model_dump(exclude={name})
    assert getattr(ExtractOptions.of({name: value}), name) == value


def test_a_file_says_the_same_in_its_own_words() -> None:
    table = tomllib.loads(
        "views = {weak = 1}\nlayers = [-1, -2]\nlimit = {test = 3, train = 8}\nshard_size = 512"
    )
    options = ExtractTable.parse(table | {"source": "digits", "model": "m"})
    assert options.views == ViewSpec(weak=1)
    assert options.layers == (-1, -2)
    assert options.limit == {"test": 3, "train": 8}
    assert list(options.limit) == ["test", "train"]
    assert options.shard_size == "512"


@pytest.mark.parametrize("text", ["weak", "weak=-1", "weak=few", "medium=1", "crop=2", "flip=nan", "=1"])
def test_views_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=text.partition("=")[0] or "=1"):
        ExtractOptions.of({"views": text})


@pytest.mark.parametrize("value", ["0", "1", "-1|-1", "", "-1,-2", "last", "-1.5", 0, (), (-1, -1), [1]])
def test_layers_that_make_no_sense_are_refused(value: Any) -> None:
    with pytest.raises(ConfigError, match="layers") as error:
        ExtractOptions.of({"layers": value})
    assert "--layer" in error.value.text(command_line=True)
    assert str(error.value.got) == repr(value)


@pytest.mark.parametrize(
    ("values", "facts"),
    [
        ({"tokens": "some"}, ["tokens", "some", "grid:HxW"]),
        ({"shard_size": "huge"}, ["shard_size", "huge", "64MB"]),
        ({"batch_size": 0}, ["batch_size", "0", "greater than 0"]),
        ({"limit": {"train": 0}}, ["limit", "train"]),
        ({"views": {"weak": -1}}, ["views", "weak", "-1"]),
        ({"colour": "red"}, ["colour", "label_column"]),
        ({"split": "train", "limit": {"test": 3}}, ["split", "train", "test"]),
    ],
)
def test_a_value_that_does_not_fit_is_refused_by_the_name_of_its_option(
    values: dict[str, Any], facts: list[str]
) -> None:
    with pytest.raises(ConfigError) as error:
        ExtractOptions.of(values)
    assert [fact for fact in facts if fact not in str(error.value)] == []
    flag = f"--{next(iter(values)).replace('_', '-')}"
    assert flag in error.value.text(command_line=True)
