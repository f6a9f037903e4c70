"""The recipe of a learner: everything that determines it except the data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from featcache import plugins
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
    """Return the class of an objective; raises ConfigError with the nearest known name."""
    kind: Kind = plugins.find("objectives", objective).objective
    return kind


def parse_options(objective: str, options: Mapping[str, Any]) -> TrainOptions:
    """Parse the options of a training and of its objective; raises ConfigError if one is not valid."""
    parsed = TrainOptions.parse(options, "the training options")
    own = objective_class(objective).Options.parse(parsed.objective, f"the options of `{objective}`")
    return parsed.model_copy(update={"objective": own.model_dump(mode="json")})
