"""Create the learner of an objective for a draw of labels, or load it from a finished run."""

from __future__ import annotations

import torch

from featcache.objectives.base import Probe
from featcache.runs.run import RunFolder
from featcache.training.data import Draw
from featcache.training.fitted_probe import FittedProbe
from featcache.training.learner import Learner
from featcache.training.options import TrainOptions
from featcache.training.own_objective import kept
from featcache.training.recipe import Recipe, objective_class
from featcache.training.task import load_origin
from featcache.training.trained_projector import TrainedProjector


def learner_class(objective: str) -> type[Learner]:
    """Return the class of learner that an objective needs."""
    return FittedProbe if issubclass(objective_class(objective), Probe) else TrainedProjector


def create_learner(recipe: Recipe, draw: Draw) -> Learner:
    """Create the learner for a draw of labels, before its first step."""
    return learner_class(recipe.objective).create(recipe, draw)


def load_learner(run: RunFolder, device: torch.device) -> Learner:
    """Load the learner of a finished run; only the folder of the run is read.

    It may hold the file of the user's own objective, which is then run.
    """
    config = run.config()
    options = TrainOptions.parse(config["options"], f"the options of {run.path}")
    recipe = Recipe(kept(run, config), options, config["seed"], device)
    return learner_class(recipe.objective).load(recipe, run)


def class_names_of(run: RunFolder) -> tuple[str, ...]:
    """Return the class names of a run's task; only the folder of the run is read."""
    return load_origin(run.task).class_names
