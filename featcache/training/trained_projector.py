"""A learner that is a projector with an objective, trained in steps on batches of a cache."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from featcache.batch import Batch, Features, Views
from featcache.errors import TrainError, option
from featcache.loading.store import FeatureStore
from featcache.nn.projector import Projector
from featcache.objectives.base import Objective, Project, Task
from featcache.runs.saved import Digest
from featcache.training.data import Draw, Labelled
from featcache.training.learner import Learner, SavedFiles
from featcache.training.outputs import Outputs, map_rows
from featcache.training.recipe import Recipe
from featcache.training.state import TrainState
from featcache.training.task import FeatureOrigin, load_task


class TrainedProjector(Learner):
    """A projector and an objective; before the first step, z equals the frozen embedding."""

    trains_steps = True
    default_folds = 0  # every fold is one more training
    reads_tokens = True

    def __init__(self, recipe: Recipe, task: Task, origin: FeatureOrigin) -> None:
        self.recipe, self.options, self.device = recipe, recipe.options, recipe.device
        self.task, self.origin, self.steps = task, origin, recipe.options.optim.steps
        generator, features = torch.Generator().manual_seed(recipe.seed), origin.features
        projector = Projector(self.options.projector, features.dim, features.pooled, generator)
        objective = recipe.kind(recipe.own_options, task)
        self.state = TrainState(projector.to(self.device), objective.to(self.device), self.options.optim)
        self._recent: list[dict[str, Tensor]] = []

    @classmethod
    def create(cls, recipe: Recipe, draw: Draw) -> Self:
        """Create projector and objective for a draw of labels."""
        return cls(recipe, draw.task, draw.origin(recipe.options.data.layer))

    @classmethod
    def load(cls, recipe: Recipe, files: SavedFiles) -> Self:
        """Load projector and objective from the task file and the checkpoint."""
        learner = cls(recipe, *load_task(files.task, Task))
        learner.resume(files.checkpoint)
        return learner

    @property
    def steps_done(self) -> int:
        """The number of training steps done."""
        return self.state.step

    @property
    def probed(self) -> Projector | None:
        """The projector, if the objective asks for probes of its representation."""
        projector, objective = self.state.evaluated()
        return projector if objective.probed else None

    def views(self, available: Sequence[str]) -> Views:
        """Return the view families that the objective reads."""
        return self._objective.views(available)

    def resume(self, checkpoint: Path) -> None:
        """Restore a checkpoint; raises TrainError if it is damaged or of another configuration."""
        self.state.load(checkpoint)

    def save(self, checkpoint: Path, metrics: Digest | None = None) -> None:
        """Write a checkpoint; `metrics` is the digest of the metrics until this step."""
        self.state.save(checkpoint, metrics)

    def begin(self) -> None:
        """Put the model into training mode."""
        self.state.model.train()

    def advance(self, batch: Batch) -> None:
        """Take one training step, and log and save if they are due.

        All randomness is seeded by (seed, step), so a resumed training gives the same result as an
        uninterrupted one. If the loss, a term of it or the gradient is not finite, raises TrainError with
        the step and saves nothing.
        """
        state, log = self.state, self.options.log
        generator = seeded_step(self.recipe.seed, state.step, self.device)
        state.set_learning_rate()
        half = self.options.optim.amp == "bfloat16"
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=half):
            loss, terms = self._objective(self._project, batch, state.step / self.steps, generator)
        self._recent.append({"loss": loss.detach(), **terms, "grad_norm": state.update(loss)})
        last = state.step == self.steps
        due, keep = last or state.step % log.every == 0, not last and state.step % log.checkpoint_every == 0
        if due or keep:
            values = finite(self._recent, state.step)
            self._recent.clear()
            if due:
                self.journal.log(state.step, values)
            if keep:
                self.journal.checkpoint(self)

    def finish(self, known: Labelled) -> None:
        """Pass the final z of the labelled rows to the objective, and save."""
        projector, objective = self.state.evaluated()
        z = map_rows(projector, known.store, known.rows, self.device)
        objective.finish(z.float(), torch.from_numpy(known.label))
        self.journal.checkpoint(self)

    def predict(self, store: FeatureStore, rows: NDArray[np.int64], view: int = 0) -> Outputs:
        """Predict from the tokens of the rows."""
        mapped = map_rows(lambda part: torch.cat(self.apply(part), 1), store, rows, self.device, view)
        classes = self.task.num_classes
        return Outputs(mapped[:, :-classes], mapped[:, -classes:])

    def apply(self, features: Features) -> Outputs:
        """Predict from features in memory, on the device of the projector."""
        projector, objective = self.state.evaluated()
        z = projector(features)
        return Outputs(z.float(), objective.logits(z).float().log_softmax(1))

    def attention(self, store: FeatureStore, rows: NDArray[np.int64]) -> Tensor | None:
        """Return the weights (N, T) of the tokens; None if the pooling has no weights."""
        projector, _ = self.state.evaluated()
        return map_rows(projector.attention, store, rows, self.device) if projector.weighs_tokens else None

    @property
    def _objective(self) -> Objective[Any]:
        objective = self.state.model["objective"]
        assert isinstance(objective, Objective)
        return objective

    @cached_property
    def _project(self) -> Project:
        projector = self.state.model["projector"]
        return torch.compile(projector) if self.options.optim.compile else projector


def seeded_step(seed: int, step: int, device: torch.device) -> torch.Generator:
    """Return the generator of one step; the global one, which dropout uses, gets the same seed."""
    mixed = (seed * 1_000_003 + step) % 2**63
    torch.manual_seed(mixed)
    return torch.Generator(device).manual_seed(mixed)


def finite(recent: Sequence[dict[str, Tensor]], step: int) -> dict[str, float]:
    """Return the terms of the last of the `recent` steps; raises TrainError if a term is not finite.

    All steps are checked together, because each check waits for the device.
    """
    values: dict[str, float] = {}
    looked = iter(torch.stack([value.float() for terms in recent for value in terms.values()]).tolist())
    for at, terms in enumerate(recent, start=step - len(recent) + 1):
        values = dict(zip(terms, looked, strict=False))
        broken = [f"{name}={value}" for name, value in values.items() if not math.isfinite(value)]
        if broken:
            raise TrainError(
                f"the loss is not finite at step {at}",
                got=", ".join(broken),
                expected="finite numbers",
                hint=f"lower {option('optim.lr')}, or the weights of the objective's terms",
            )
    return values
