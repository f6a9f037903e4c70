"""The state of a training: everything that changes, so that it can be saved and restored exactly."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load
from safetensors.torch import save as serialize
from torch import Tensor, nn

from featcache.files import require_temporary_folder
from featcache.nn.projector import Projector
from featcache.objectives.base import Objective
from featcache.runs.saved import Digest, header, read_tensors, readable, write_tensors
from featcache.training.options import OptimOptions


class TrainState:
    """Projector, objective, optimiser, moving average and the number of steps done."""

    def __init__(self, projector: Projector, objective: Objective[Any], options: OptimOptions) -> None:
        self.model = nn.ModuleDict({"projector": projector, "objective": objective})
        self.options = options
        self.step = 0
        require_temporary_folder()  # the first optimiser makes torch look for its own
        # Fused: one kernel for all parameters, which counts its steps on the device.
        self.optimizer = torch.optim.AdamW(
            self._groups(), lr=options.lr, weight_decay=options.weight_decay, fused=True
        )
        self.average = copy.deepcopy(self.model).requires_grad_(False) if options.ema else None

    def _groups(self) -> list[dict[str, Any]]:
        """Group parameters by role, each with its learning rate; vectors and scalars get no weight decay."""
        projector, objective = self.model["projector"], self.model["objective"]
        assert isinstance(objective, Objective)
        critics = objective.critic_parameters()
        owned = {id(parameter) for parameter in critics}
        heads = [parameter for parameter in objective.parameters() if id(parameter) not in owned]
        roles = (
            ("projector", self.options.lr, list(projector.parameters())),
            ("heads", self.options.head_lr, heads),
            ("critics", self.options.critic_lr, critics),
        )
        return [
            {
                "params": [parameter for parameter in parameters if (parameter.ndim > 1) is decayed],
                "role": role,
                "peak_lr": rate,
                "weight_decay": self.options.weight_decay if decayed else 0.0,
            }
            for role, rate, parameters in roles
            for decayed in (True, False)
        ]

    def clip_gradients(self) -> Tensor:
        """Clip projector and heads by their joint norm, and critics by their own.

        A spike in one part then does not slow the other. Return the norm of the whole gradient before
        clipping.
        """
        norms = []
        for critics in (False, True):
            groups = [g for g in self.optimizer.param_groups if (g["role"] == "critics") is critics]
            # For an empty list, torch returns a zero on the CPU, whatever device the model is on.
            if parameters := [parameter for group in groups for parameter in group["params"]]:
                norms.append(nn.utils.clip_grad_norm_(parameters, self.options.clip))
        total: Tensor = torch.stack(norms).norm()
        return total

    def update(self, loss: Tensor) -> Tensor:
        """Take one step of the optimiser; return the norm of the gradient before clipping."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = self.clip_gradients()
        self.optimizer.step()
        self.step += 1
        self.move_average()
        return norm

    @torch.no_grad()
    def move_average(self) -> None:
        """Update the moving average, if it is used; it starts with the weights after the first step.

        torch's AveragedModel does the same, but copies its step count from the host at every step.
        """
        if self.average is None:
            return
        share = 1 - self.options.ema if self.step > 1 else 1.0
        for mine, weight in zip(self.average.parameters(), self.model.parameters(), strict=True):
            mine.lerp_(weight, share)
        for held, buffer in zip(self.average.buffers(), self.model.buffers(), strict=True):
            held.copy_(buffer)

    def set_learning_rate(self) -> None:
        """Set the learning rate of each group to its peak times the factor of the schedule."""
        factor = schedule(self.step, self.options.steps, self.options.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor

    def evaluated(self) -> tuple[Projector, Objective[Any]]:
        """Return projector and objective in evaluation mode; the moving average if it is used."""
        model = self.average or self.model
        projector, objective = model["projector"], model["objective"]
        assert isinstance(projector, Projector)
        assert isinstance(objective, Objective)
        return projector.eval(), objective.eval()

    def save(self, path: Path, metrics: Digest | None = None) -> None:
        """Write a checkpoint in safetensors, atomically: a kill leaves the previous one or this one.

        `metrics` is the digest of the metrics until this step.
        """
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        if self.average:
            tensors |= {f"average.{name}": value for name, value in self.average.state_dict().items()}
        for index, entries in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": value for name, value in entries.items()}
        noted = {"step": self.step} | ({} if metrics is None else {"metrics": metrics._asdict()})
        write_tensors(path, serialize(unshared(tensors), header(noted)))

    def load(self, path: Path) -> None:
        """Restore a checkpoint; raises TrainError if it is damaged or of another configuration."""
        with readable(f"the checkpoint {path.name}", "a checkpoint of this configuration"):
            data, noted = read_tensors(path)
            tensors, step = load(data), int(noted["step"])
            self.model.load_state_dict(_part(tensors, "model."))
            if self.average:
                self.average.load_state_dict(_part(tensors, "average."))
            saved = self.optimizer.state_dict()
            saved["state"] = _nested(_part(tensors, "optimizer."))
            self.optimizer.load_state_dict(saved)
        self.step = step


def schedule(step: int, steps: int, warmup: float) -> float:
    """Compute the factor of the learning rate.

    It rises linearly to 1 during the `warmup` share of the steps, and then falls to 0 along a half cosine.

    >>> [round(schedule(step, 10, 0.2), 2) for step in (0, 1, 2, 9)]
    [0.5, 1.0, 1.0, 0.04]
    """
    rising = warmup * steps
    if step < rising:
        return min(1.0, (step + 1) / rising)
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1.0, steps - rising)))


def unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy each tensor, because safetensors refuses tensors that share memory or are not contiguous."""
    return {name: value.clone(memory_format=torch.contiguous_format) for name, value in tensors.items()}


def read_step(path: Path) -> int:
    """Return the number of steps of a checkpoint."""
    return int(read_tensors(path)[1]["step"])


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _nested(flat: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in flat.items():
        index, _, entry = name.partition(".")
        state.setdefault(int(index), {})[entry] = value
    return state
