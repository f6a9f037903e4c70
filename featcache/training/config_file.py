"""Train as a file says: the config.json of a run fed back, or options of a user's own in JSON or TOML."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from featcache.config import as_tree
from featcache.errors import ConfigError, option
from featcache.location import Location
from featcache.outside import json_of, toml_of
from featcache.plugins import portable_name
from featcache.seal import KEY, is_whole
from featcache.training.own_objective import DIGEST, copy_in

REQUEST = ("objective", "seed", "order_seed", "labels_per_class", "num_labels", "holdout", "class_text")
"""Keys of a run's configuration that are arguments of a training; its cache is given by the user."""


@dataclass(frozen=True)
class Asked:
    """The options and arguments that a configuration asks for."""

    options: dict[str, Any]
    """The options of the training, nested."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Arguments of the training by name, such as `objective` and `seed`; empty for a file of options."""
    replayed: bool = False
    """True if the run mixed in a replay cache, whose place a configuration does not hold."""
    labels: str | None = None
    """The digest of the labels that the run learned from, which a configuration does not hold either."""

    def check(self, options: Mapping[str, Any]) -> None:
        """Raise ConfigError if a replay cache belongs to the run and the final options name none."""
        if self.replayed and not options.get("data", {}).get("replay"):
            raise ConfigError(
                "the configuration is that of a run with a replay cache",
                expected="the place of that cache, which a configuration does not hold",
                hint=f"pass {option('data.replay', 'PATH')}",
            )


def read_config(path: str | os.PathLike[str]) -> Asked:
    """Read a run's config.json, or options in JSON or TOML; raise ConfigError if it is neither.

    An own objective (`python:FILE`) is the copy that the run keeps beside its config.json.
    """
    file = Location.of(path).path
    try:
        data = file.read_bytes()
        if is_whole(data) is False:
            raise ConfigError(
                f"{file} is not as a training wrote it",
                got="its checksum does not match",
                hint=f'delete its line "{KEY}" if the change is your own',
            )
        tree = json_of(data) if file.suffix == ".json" else toml_of(data)
    except OSError as error:
        raise ConfigError("the configuration cannot be read", got=f"{file}: {error.strerror}") from None
    except ValueError as error:
        kind = "JSON" if file.suffix == ".json" else "TOML"
        raise ConfigError(f"{file} is not {kind}", got=error) from None
    return asked_by(tree, file.parent)


def asked_by(tree: object, folder: Path | None = None) -> Asked:
    """Return what the content of a config.json, or a tree of options, asks for.

    `folder` is that of the run, which keeps a copy of an own objective.

    >>> asked_by({"objective": "linear", "seed": 1, "num_labels": None, "options": {"cv": 3}})
    Asked(options={'cv': 3}, arguments={'objective': 'linear', 'seed': 1}, replayed=False, labels=None)
    >>> asked_by({"optim.lr": 0.1}).options
    {'optim': {'lr': 0.1}}
    """
    if not (isinstance(tree, Mapping) and "options" in tree):
        return Asked(as_tree(tree))
    arguments = {key: tree[key] for key in REQUEST if tree.get(key) is not None}
    if DIGEST in tree and folder is not None:
        arguments["objective"] = f"python:{copy_in(folder, tree)}"
    return Asked(as_tree(tree["options"]), arguments, replayed="replay" in tree, labels=tree.get("labels"))


def options_for(objective: str, options: object) -> dict[str, Any]:
    """Return nested options as Python users give them: options, or the content of a run's config.json.

    Raises ConfigError if that run has another objective.
    """
    asked = asked_by(options)
    theirs = asked.arguments.get("objective", objective)
    if portable_name(theirs) != portable_name(objective):
        raise ConfigError(
            "the options are those of another objective", got=theirs, expected=portable_name(objective)
        )
    asked.check(asked.options)
    return asked.options
