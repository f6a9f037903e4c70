"""Typed, frozen options: validated when created, overridable by `key=value`, with a stable digest."""

from __future__ import annotations

import difflib
import hashlib
import json
import operator
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Self, get_args, get_origin

import pydantic
from pydantic_core import ErrorDetails

from featcache.errors import ConfigError, option


class Config(pydantic.BaseModel):
    """The base class of all options: frozen, without unknown keys, with readable errors.

    >>> class Options(Config):
    ...     lr: float = 1e-3
    >>> Options.parse({"lr": "0.1"}).lr
    0.1
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def parse(cls, values: Mapping[str, Any], where: str | None = "options") -> Self:
        """Validate `values`; raises ConfigError with the first wrong key, its value and what was expected.

        `where` names the table of the keys. None means that keys are arguments in Python, and flags on the
        command line.
        """
        try:
            return cls.model_validate(values)
        except pydantic.ValidationError as error:
            raise _explain(cls, error, values, where) from None

    def digest(self) -> str:
        """Return the SHA-256 (hex) of the canonical JSON form, which does not depend on the order of keys."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def diff(self, other: Config) -> Iterator[tuple[str, Any, Any]]:
        """Yield every value that differs, as (dotted name, own value, other value)."""
        mine, theirs = flatten(self.model_dump(mode="json")), flatten(other.model_dump(mode="json"))
        for name in [*mine, *(key for key in theirs if key not in mine)]:
            if mine.get(name) != theirs.get(name):
                yield name, mine.get(name), theirs.get(name)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten a nested mapping to dotted names.

    >>> flatten({"a": {"b": 1}, "c": 2})
    {'a.b': 1, 'c': 2}
    """
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def parse_overrides(pairs: Iterable[str]) -> dict[str, Any]:
    """Parse `key=value` pairs with dotted keys to a nested dict.

    A value is parsed as TOML; if that fails, it is a string. Raises ConfigError for a pair without `=`.

    >>> parse_overrides(["objective.alpha=4", "projector.pool=mean"])
    {'objective': {'alpha': 4}, 'projector': {'pool': 'mean'}}
    """
    tree: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not (equals and key.strip()):
            raise ConfigError("an override must be key=value", got=pair, hint="for example objective.tau=0.1")
        merge(tree, _nest(key.strip().split("."), _value(text.strip())))
    return tree


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Turn dotted names into a nested mapping, the inverse of `flatten`.

    >>> nest({"a.b": 1, "c": 2})
    {'a': {'b': 1}, 'c': 2}
    """
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        merge(tree, _nest(key.split("."), value))
    return tree


def whole_number(name: str, value: object) -> int:
    """Return a whole number, also one of NumPy's, as an int; raises ConfigError for anything else.

    >>> whole_number("size", 4)
    4
    """
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise ConfigError(f"{option(name)} is not a whole number", got=repr(value), expected="such as 4")
    return operator.index(value)


def as_tree(options: object) -> dict[str, Any]:
    """Turn options as Python users give them (nested, dotted or a Config) into a nested mapping.

    Raises ConfigError for anything else, and where a name is given both a value and options of its own.

    >>> as_tree({"optim": {"steps": 5}, "optim.lr": 0.1})
    {'optim': {'steps': 5, 'lr': 0.1}}
    """
    if options is None:
        return {}
    if isinstance(options, Config):
        return options.model_dump(mode="json", exclude_unset=True)
    if not isinstance(options, Mapping) or not all(isinstance(key, str) for key in options):
        raise ConfigError(
            "options are a mapping by name", got=repr(options), expected="for example {'optim.steps': 500}"
        )
    tree = nest(options)
    for key, value in flatten(options).items():
        found: Any = tree
        for part in key.split("."):
            found = found.get(part) if isinstance(found, dict) else None
        if isinstance(found, dict) and not isinstance(value, Mapping):
            raise ConfigError(f"`{key}` is given a value and options of its own", got=repr(value))
    return tree


def merge(into: dict[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Merge `other` into `into`, in place and recursively; values of `other` win. Return `into`."""
    for key, value in other.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            merge(into[key], value)
        else:
            # A copy, so that a later merge into it does not change `other`.
            into[key] = merge({}, value) if isinstance(value, Mapping) else value
    return into


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a hint with the nearest known name and a list of all; empty if none is known.

    >>> did_you_mean("twinturb", ["linear", "twinturbo"])
    'did you mean `twinturbo`? known: linear, twinturbo'
    """
    options = sorted(known)
    if not options:
        return ""
    near = difflib.get_close_matches(name, options, n=1)
    return (f"did you mean `{near[0]}`? " if near else "") + "known: " + ", ".join(options)


def _nest(keys: list[str], value: Any) -> dict[str, Any]:
    for key in reversed(keys):
        value = {key: value}
    return dict(value)


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _explain(
    model: type[Config], error: pydantic.ValidationError, values: Mapping[str, Any], where: str | None
) -> ConfigError:
    first = error.errors(include_url=False)[0]
    name = _name(first, values)
    key = _argument(name) if where is None else f"`{name or where}` in {where}"
    if first["type"] == "extra_forbidden":
        known = did_you_mean(str(first["loc"][-1]), _fields(model, first["loc"][:-1]))
        what = f"{key} does not exist" if where is None else f"unknown key {key}"
        return ConfigError(what, hint=known or None)
    if first["type"] == "missing":
        return ConfigError(f"`{name}` is missing in {where}")
    expected = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    return ConfigError(f"{key} is not valid", got=repr(first["input"]), expected=expected)


def _argument(name: str) -> str:
    """Name an argument and the key inside it that is wrong, from their dotted name: `views.weak`."""
    argument, _, inside = name.partition(".")
    return f"the option {option(argument)}" + (f" ({inside})" if inside else "")


def _name(error: ErrorDetails, values: Any) -> str:
    """Return the dotted name of a wrong value, without pydantic's names of the members of a union."""
    parts = []
    for part in error["loc"]:
        inside = isinstance(part, int) and isinstance(values, (list, tuple))
        if part in values if isinstance(values, Mapping) else inside:
            values = values[part]
            parts.append(str(part))
        elif error["type"] == "missing":
            parts.append(str(part))
    return ".".join(parts)


def _fields(model: Any, path: tuple[int | str, ...]) -> list[str]:
    """Return the keys of the table at `path`, also inside tables of tables (`dict[str, Config]`)."""
    for part in path:
        if get_origin(model) is dict:
            model = get_args(model)[1]
        elif hasattr(model, "model_fields") and part in model.model_fields:
            model = model.model_fields[part].annotation
    return list(getattr(model, "model_fields", ()))
