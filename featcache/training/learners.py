"""Make the learner that fits an objective: new for a draw of labels, or again from a finished run."""

from __future__ import annotations

import torch

from featcache.objectives.base import Probe
from featcache.runs.run import RunFolder
from featcache.training.data import Draw
from featcache.training.fitted_probe import FittedProbe
from featcache.training.learner import Learner
from featcache.training.options import TrainOptions
from featcache.training.recipe import Recipe, objective_class
from featcache.training.trained_projector import TrainedProjector


def learner_class(objective: str) -> type[Learner]:
    """Choose the kind of learner that fits an objective."""
    return FittedProbe if issubclass(objective_class(objective), Probe) else TrainedProjector


def create_learner(recipe: Recipe, draw: Draw) -> Learner:
    """Make the learner for a draw of labels, before its first step."""
    return learner_class(recipe.objective).create(recipe, draw)


def load_learner(run: RunFolder, device: torch.device) -> Learner:
    """Make the learner of a finished run again, from its own folder alone."""
    config = run.config()
    options = TrainOptions.parse(config["options"], f"the options of {run.path}")
    recipe = Recipe(config["objective"], options, config["seed"], device)
    return learner_class(recipe.objective).load(recipe, run)
