"""Find the module that implements a source, an encoder or an objective.

The key of a plugin is its file name: `featcache/objectives/twinturbo.py` is `twinturbo`. Other packages add
plugins by entry points in the groups `featcache.sources`, `featcache.encoders` and `featcache.objectives`;
each entry names a module. There is no registry to edit. An objective may also be a file of the user's own:
`python:path/to/mine.py`.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import os
import pkgutil
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Literal

from featcache.config import did_you_mean
from featcache.errors import ConfigError, FeatcacheError, option

Kind = Literal["sources", "encoders", "objectives"]
_OWN_FILE = "python:"


def names(kind: Kind) -> list[str]:
    """Return the keys of all plugins of one kind, sorted; `base` and `_names` are no plugins.

    >>> "digits" in names("sources")
    True
    """
    package = importlib.import_module(f"featcache.{kind}")
    found = {module.name for module in pkgutil.iter_modules(package.__path__)}
    own = {name for name in found if name != "base" and not name.startswith("_")}
    return sorted(own | set(_entry_points(kind)))


def find(kind: Kind, name: str) -> ModuleType:
    """Import the module that implements `name`; raises ConfigError with the nearest known name.

    >>> find("sources", "digits").__name__
    'featcache.sources.digits'
    """
    if kind == "objectives" and (path := own_file(name)) is not None:
        return import_file(path)
    if name not in names(kind):
        raise ConfigError(
            f"no {kind.removesuffix('s')} is called `{name}`",
            expected=_expected(kind),
            hint=did_you_mean(name, names(kind)),
        )
    outside = _entry_points(kind).get(name)
    return importlib.import_module(outside or f"featcache.{kind}.{name}")


def own_file(name: str) -> Path | None:
    """Return the path in `python:PATH`; None for any other name.

    >>> own_file("python:lab/mine.py").name, own_file("linear")
    ('mine.py', None)
    """
    return Path(name.removeprefix(_OWN_FILE)).expanduser() if name.startswith(_OWN_FILE) else None


def code_in(tree: object) -> list[str]:
    """Return every name in a tree of options, keys too, that would run code of the user's own.

    >>> code_in({"model": "python:mine.py:build", "train": ["linear"]})
    ['python:mine.py:build']
    """
    if isinstance(tree, str):
        return [tree] if tree.startswith(_OWN_FILE) else []
    if isinstance(tree, Mapping):
        return code_in([part for item in tree.items() for part in item])
    return [name for part in tree for name in code_in(part)] if isinstance(tree, (list, tuple)) else []


def require_trust(code: Sequence[str], place: object, trust: bool) -> None:
    """Raise ConfigError if a file names code to run, and the user has not said that they trust it."""
    if code and not trust:
        raise ConfigError(
            f"{place} names Python code, which was not run",
            got=", ".join(dict.fromkeys(code)),
            expected="code that you have read, or whose author you trust: it can do all that you can",
            hint=f"read it, then {option('trust', True)}",
        )


def portable_name(name: str) -> str:
    """Return a name without the folders of this machine; only `python:PATH` has any.

    >>> portable_name("python:lab/mine.py"), portable_name("linear")
    ('python:mine.py', 'linear')
    """
    path = own_file(name)
    return name if path is None else f"{_OWN_FILE}{path.name}"


def file_digest(path: Path) -> str:
    """Return the SHA-256 (hex) of a Python file; raises ConfigError if there is none."""
    return hashlib.sha256(_source(path)).hexdigest()


def import_file(path: Path) -> ModuleType:
    """Import a user's Python file; raises ConfigError with its line if it cannot be imported.

    The same content is imported once in a process, whatever its path is. The file can import installed
    packages, but not files beside its own.
    """
    key = f"featcache_own_{file_digest(path)[:16]}"
    if key in sys.modules:
        return sys.modules[key]
    try:
        return execute_file(path, key)
    except ConfigError:
        raise
    except Exception as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__)]
        at = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
        where = f" (line {at})" if at else ""
        raise ConfigError(
            f"{path} cannot be imported", got=f"{type(error).__name__}: {error}{where}"
        ) from error


def execute_file(path: Path, key: str, *, error: type[FeatcacheError] = ConfigError) -> ModuleType:
    """Execute a Python file as the module `key`; raises `error` if its name does not end in .py.

    An error of the file itself is raised as it is.
    """
    spec = importlib.util.spec_from_file_location(key, path)
    if spec is None or spec.loader is None:
        raise error("the file is not a Python file", got=path, expected="a name that ends in .py")
    module = importlib.util.module_from_spec(spec)
    # Classes of the module find it by its name, for example to read their annotations.
    sys.modules[key] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[key]
        raise
    return module


def _source(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(
            "there is no such Python file",
            got=path,
            expected="python:path/to/file.py, from the working directory",
            hint=None if isinstance(error, FileNotFoundError) else error.strerror,
        ) from None


def _expected(kind: Kind) -> str:
    """Say where a plugin may come from."""
    group = f"an installed package's entry point in the group featcache.{kind}"
    if kind == "objectives":
        return f"a name that `featcache objectives` lists, {group}, or a file: python:path/to/mine.py"
    return f"a known name, or {group}"


def _entry_points(kind: Kind) -> dict[str, str]:
    # Reading what is installed takes 20 ms; it changes only with the folders that it lies in.
    return _installed(kind, tuple((folder, _changed(folder)) for folder in sys.path))


def _changed(folder: str) -> int:
    try:
        return os.stat(folder).st_mtime_ns
    except OSError:
        return 0


@functools.cache
def _installed(kind: Kind, where: tuple[tuple[str, int], ...]) -> dict[str, str]:
    return {point.name: point.value for point in importlib.metadata.entry_points(group=f"featcache.{kind}")}
