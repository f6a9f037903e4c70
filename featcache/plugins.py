"""Find the module that implements a source, an encoder or an objective.

The key of a plugin is its file name: `featcache/objectives/twinturbo.py` is `twinturbo`. Other packages add
plugins by entry points in the groups `featcache.sources`, `featcache.encoders` and `featcache.objectives`;
each entry names a module. There is no registry to edit.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import pkgutil
from types import ModuleType
from typing import Literal

from featcache.config import did_you_mean
from featcache.errors import ConfigError

Kind = Literal["sources", "encoders", "objectives"]


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
    if name not in names(kind):
        raise ConfigError(
            f"no {kind.removesuffix('s')} is called `{name}`", hint=did_you_mean(name, names(kind))
        )
    outside = _entry_points(kind).get(name)
    return importlib.import_module(outside or f"featcache.{kind}.{name}")


def _entry_points(kind: Kind) -> dict[str, str]:
    return {point.name: point.value for point in importlib.metadata.entry_points(group=f"featcache.{kind}")}
