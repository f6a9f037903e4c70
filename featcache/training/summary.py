"""The settings and figures of a finished training as single values, for TensorBoard and trackers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from featcache.config import flatten

_ASKED = ("objective", "seed", "labels_per_class", "num_labels")
_PARTS = ("test", "holdout", "held_out", "estimate", "scores")


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was asked for, by dotted name; an option without a value is left out.

    >>> settings({"objective": "linear", "seed": 0, "options": {"optim": {"lr": 0.1, "amp": None}}})
    {'objective': 'linear', 'seed': 0, 'optim.lr': 0.1}
    """
    found = {name: config.get(name) for name in _ASKED} | flatten(config["options"])
    return {name: value for name, value in found.items() if isinstance(value, (bool, int, float, str))}


def figures(result: Mapping[str, Any]) -> dict[str, float]:
    """Return the figures of a result, such as `test/accuracy`.

    >>> figures({"test": {"accuracy": 0.5, "confusion": [[1]]}, "held_out": None, "temperature": 2.0})
    {'test/accuracy': 0.5, 'temperature': 2.0}
    """
    found = {f"{part}/{name}": value for part in _PARTS for name, value in (result.get(part) or {}).items()}
    found["temperature"] = result.get("temperature")
    return {
        name: float(value)
        for name, value in found.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }
