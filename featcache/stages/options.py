"""`featcache options`: every option of a training, with its default and meaning."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from typing import Any

from featcache.training.catalogue import OptionFacts, training_options


def list_options(objective: str | None = None) -> tuple[OptionFacts, ...]:
    """Return name, default, values, choices and meaning of every option of a training.

    With an objective, its own options come first. Raises ConfigError for an unknown objective.

    >>> [option.default for option in list_options("linear") if option.name == "objective.folds"]
    [3]
    """
    return training_options(objective)


def describe(options: Sequence[OptionFacts], width: int) -> str:
    """Write options for a terminal of some width: `NAME=DEFAULT  (VALUES)`, and the meaning below."""
    lines = []
    for option in options:
        lines.append(f"{option.name}={_spelled(option.default)}  ({option.values})")
        lines += textwrap.wrap(
            option.meaning, max(width, 40), initial_indent="    ", subsequent_indent="    "
        )
    return "\n".join(lines)


def _spelled(value: Any) -> str:
    """Write a default as `--set` takes it; nothing for None."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)
