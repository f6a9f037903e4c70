"""The recipe of a learner: everything that determines it except the data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from featcache import plugins
from featcache.config import Config, option_names
from featcache.errors import ConfigError
from featcache.objectives.base import Objective, Probe
from featcache.training.options import TrainOptions

Kind = type[Objective[Any]] | type[Probe[Any]]


@dataclass(frozen=True)
class Recipe:
    """An objective with its options, a seed of the initial weights, and a device."""

    objective: str
    options: TrainOptions
    seed: int
    device: torch.device

    @property
    def kind(self) -> Any:
        """The class of the objective."""
        return objective_class(self.objective)

    @property
    def own_options(self) -> Any:
        """The options of the objective itself."""
        return self.kind.Options.parse(self.options.objective)


def objective_class(objective: str) -> Kind:
    """Return the class of an objective; raises ConfigError with the nearest known name.

    `python:path/to/mine.py` is the class that the file calls `objective`.
    """
    module = plugins.find("objectives", objective)
    kind: Any = getattr(module, "objective", None)
    fits = isinstance(kind, type) and issubclass(kind, (Objective, Probe))
    if not (fits and issubclass(getattr(kind, "Options", object), Config)):
        raise ConfigError(
            f"`{objective}` gives no objective",
            got="no name `objective` in the file" if kind is None else f"objective = {kind!r}",
            expected="objective = CLASS, a subclass of Objective or Probe whose Options are a Config",
        )
    found: Kind = kind
    return found


def parse_options(objective: str, options: Mapping[str, Any]) -> TrainOptions:
    """Parse the options of a training and of its objective; raises ConfigError if one is not valid."""
    kind = objective_class(objective)
    own_names = [f"objective.{name}" for name in option_names(kind.Options)]
    parsed = TrainOptions.parse(options, "the training options", own_names)
    every = [name for name in option_names(TrainOptions) if name != "objective"]
    own = kind.Options.parse(parsed.objective, f"the options of `{objective}`", every)
    return parsed.model_copy(update={"objective": own.model_dump(mode="json")})
