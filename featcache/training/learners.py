"""Make the learner that fits an objective: new for a draw of labels, or again from a finished run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from featcache import plugins
from featcache.objectives.base import Probe
from featcache.runs.run import RunFolder
from featcache.training.data import Draw
from featcache.training.fitted_probe import FittedProbe
from featcache.training.learner import Kind, Learner
from featcache.training.options import TrainOptions
from featcache.training.trained_projector import TrainedProjector


def objective_class(objective: str) -> Kind:
    """Find the class that implements an objective; raises ConfigError with the nearest known name."""
    kind: Kind = plugins.find("objectives", objective).objective
    return kind


def learner_class(objective: str) -> type[Learner]:
    """Choose the kind of learner that fits an objective."""
    return FittedProbe if issubclass(objective_class(objective), Probe) else TrainedProjector


def parse_options(objective: str, options: Mapping[str, Any]) -> TrainOptions:
    """Parse the options of a training and of its objective; raises ConfigError for one that does not fit."""
    parsed = TrainOptions.parse(options, "the training options")
    own = objective_class(objective).Options.parse(parsed.objective, f"the options of `{objective}`")
    return parsed.model_copy(update={"objective": own.model_dump(mode="json")})


def create_learner(
    objective: str, options: TrainOptions, draw: Draw, *, seed: int, device: torch.device
) -> Learner:
    """Make the learner for a draw of labels."""
    kind = objective_class(objective)
    return learner_class(objective).create(kind, options, draw, seed=seed, device=device)


def load_learner(run: RunFolder, device: torch.device) -> Learner:
    """Make the learner of a finished run again, from its own folder alone."""
    config = run.config()
    objective = config["objective"]
    options = TrainOptions.parse(config["options"], f"the options of {run.path}")
    kind = objective_class(objective)
    return learner_class(objective).load(kind, options, run, seed=config["seed"], device=device)
