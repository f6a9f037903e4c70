"""The public names exist, are listed and are documented."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from typing import Any

import pytest

import featcache


def test_every_public_name_resolves_and_is_listed() -> None:
    resolved = {name: getattr(featcache, name) for name in featcache.__all__}
    assert len(set(map(id, resolved.values()))) == len(featcache.__all__)
    assert set(featcache.__all__) < set(dir(featcache))
    assert featcache.__all__ == sorted(featcache.__all__)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute `extrakt`"):
        _ = featcache.extrakt


def modules() -> Iterator[Any]:
    found = (module.name for module in pkgutil.walk_packages(featcache.__path__, "featcache."))
    return (importlib.import_module(name) for name in found if "._" not in name)


def public_objects() -> Iterator[tuple[str, Any]]:
    """Public functions and classes where they are defined, and the public methods of the latter."""
    for module in modules():
        for name, thing in vars(module).items():
            if name.startswith("_") or getattr(thing, "__module__", None) != module.__name__:
                continue
            if inspect.isfunction(thing) or inspect.isclass(thing):
                yield f"{module.__name__}.{name}", thing
            if inspect.isclass(thing):
                members = ((key, getattr(thing, key)) for key in vars(thing) if not key.startswith("_"))
                yield from (
                    (f"{module.__name__}.{name}.{key}", member)
                    for key, member in members
                    if inspect.isroutine(member) or isinstance(member, property)
                )


def test_every_public_object_has_a_docstring() -> None:
    silent = [name for name, thing in public_objects() if not (inspect.getdoc(thing) or "").strip()]
    assert not silent
