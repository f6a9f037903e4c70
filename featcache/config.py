"""Typed, frozen options: validated when created, overridable by `key=value`, with a stable digest."""

from __future__ import annotations

import hashlib
import json
import operator
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Self, get_args, get_origin

import pydantic
from pydantic_core import ErrorDetails

from featcache.errors import ConfigError, option
from featcache.nearest import did_you_mean, near_leaf, nearest_value, same_leaf
from featcache.outside import toml_of

__all__ = [
    "Config",
    "as_tree",
    "did_you_mean",
    "flatten",
    "merge",
    "nest",
    "option_names",
    "parse_overrides",
    "whole_number",
]


class Config(pydantic.BaseModel):
    """The base class of all options: frozen, without unknown keys, with readable errors.

    >>> class Options(Config):
    ...     lr: float = 1e-3
    >>> Options.parse({"lr": "0.1"}).lr
    0.1
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except pydantic.ValidationError as error:
            raise _explain(type(self), error, values, type(self).__name__) from None

    # Pydantic then validates nested options itself, so that an error names the whole way to a value.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @classmethod
    def parse(
        cls, values: Mapping[str, Any], where: str | None = "options", others: Iterable[str] = ()
    ) -> Self:
        """Validate `values`; raises ConfigError with the first wrong key, its value and what was expected.

        `where` names the table of the keys. None means that keys are arguments in Python, and flags on the
        command line. `others` are dotted names from elsewhere that an unknown key may have meant.
        """
        try:
            return cls.model_validate(values)
        except pydantic.ValidationError as error:
            raise _explain(cls, error, values, where, others) from None

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


def _nest(keys: list[str], value: Any) -> dict[str, Any]:
    for key in reversed(keys):
        value = {key: value}
    return dict(value)


def _value(text: str) -> Any:
    try:
        return toml_of(f"value = {text}")["value"]
    except ValueError:
        return text


def option_names(model: Any, values: object = None) -> list[str]:
    """Return the dotted names of all options below a `Config`.

    Tables of tables (`dict[str, Config]`) count with the names that `values` has: `extract.digits.tokens`.
    """
    given = values if isinstance(values, Mapping) else {}
    if get_origin(model) is dict and _is_config(get_args(model)[1]):
        tables = {str(name): (get_args(model)[1], below) for name, below in given.items()}
    elif _is_config(model):
        tables = {name: (field.annotation, given.get(name)) for name, field in model.model_fields.items()}
    else:
        return []
    found = []
    for name, (kind, below) in tables.items():
        inside = option_names(kind, below)
        found += [f"{name}.{leaf}" for leaf in inside] or ([] if get_origin(kind) is dict else [name])
    return found


def _is_config(model: Any) -> bool:
    return isinstance(model, type) and issubclass(model, Config)


def _explain(
    model: type[Config],
    error: pydantic.ValidationError,
    values: Mapping[str, Any],
    where: str | None,
    others: Iterable[str] = (),
) -> ConfigError:
    first = error.errors(include_url=False)[0]
    name = _name(first, values)
    key = _argument(name) if where is None else f"`{name or where}` in {where}"
    if first["type"] == "extra_forbidden":
        full = (
            name if not isinstance(first["input"], Mapping) else next(iter(flatten({name: first["input"]})))
        )
        hint = _meant(full, _fields(model, first["loc"][:-1]), [*option_names(model, values), *others])
        what = f"{key} does not exist" if where is None else f"unknown key {key}"
        return ConfigError(what, hint=hint or None)
    if first["type"] == "missing":
        return ConfigError(f"`{name}` is missing in {where}")
    expected = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    near = None
    if first["type"] == "literal_error":
        near = nearest_value(first["input"], re.findall("'([^']*)'", first["ctx"]["expected"]))
    meant = f"did you mean `{near}`?" if near else None
    return ConfigError(f"{key} is not valid", got=repr(first["input"]), expected=expected, hint=meant)


def _meant(name: str, siblings: list[str], known: list[str]) -> str:
    """Return a hint for an unknown key: its own name elsewhere, or a near name, first beside it."""
    leaf = name.rpartition(".")[2]
    hint = did_you_mean(leaf, siblings)
    found = same_leaf(name, known) or ([] if hint.startswith("did") else near_leaf(name, known))
    return f"did you mean {' or '.join(f'`{option}`' for option in found)}?" if found else hint


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
