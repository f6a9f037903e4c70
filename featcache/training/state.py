"""Everything that changes while training, in one object that can be saved and restored exactly."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from featcache.errors import TrainError
from featcache.nn.projector import Projector
from featcache.objectives.base import Objective
from featcache.training.options import OptimOptions


class TrainState:
    """Projector, objective, optimiser, moving average and the number of steps done."""

    def __init__(self, projector: Projector, objective: Objective[Any], options: OptimOptions) -> None:
        self.model = nn.ModuleDict({"projector": projector, "objective": objective})
        self.options = options
        self.step = 0
        self.optimizer = torch.optim.AdamW(self._groups(), lr=options.lr, weight_decay=options.weight_decay)
        self.average = (
            AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(options.ema))  # type: ignore[no-untyped-call]
            if options.ema
            else None
        )

    def _groups(self) -> list[dict[str, Any]]:
        """Critics have their own learning rate; vectors and scalars (norms, biases, scales) are not decayed."""
        objective = self.model["objective"]
        assert isinstance(objective, Objective)
        critics = {id(p) for p in objective.critic_parameters()}
        groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
        for parameter in self.model.parameters():
            groups.setdefault((id(parameter) in critics, parameter.ndim > 1), []).append(parameter)
        return [
            {
                "params": parameters,
                "critic": critic,
                "peak_lr": self.options.critic_lr if critic else self.options.lr,
                "weight_decay": self.options.weight_decay if decay else 0.0,
            }
            for (critic, decay), parameters in groups.items()
        ]

    def clip_gradients(self) -> None:
        """Projector and heads by their joint norm, critics by theirs: one side's spike must not stop the other."""
        for critic in (False, True):
            groups = [group for group in self.optimizer.param_groups if group["critic"] is critic]
            parameters = [parameter for group in groups for parameter in group["params"]]
            nn.utils.clip_grad_norm_(parameters, self.options.clip)

    def set_learning_rate(self) -> None:
        """Each group's peak times the schedule's factor at this step."""
        factor = schedule(self.step, self.options.steps, self.options.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor

    def evaluated(self) -> tuple[Projector, Objective[Any]]:
        """What predictions are made with: the moving average where there is one."""
        model = cast(nn.ModuleDict, self.average.module) if self.average else self.model
        projector, objective = model["projector"], model["objective"]
        assert isinstance(projector, Projector)
        assert isinstance(objective, Objective)
        return projector, objective

    def save(self, path: Path) -> None:
        """Write atomically, in safetensors: a kill leaves the previous checkpoint or this one."""
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        if self.average:
            tensors |= {f"average.{name}": value for name, value in self.average.state_dict().items()}
        for index, entries in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": value for name, value in entries.items()}
        partial = path.with_suffix(".partial")
        # Cloned: safetensors refuses tensors that share memory.
        contiguous = {name: value.detach().clone().contiguous() for name, value in tensors.items()}
        save_file(contiguous, partial, {"featcache": json.dumps({"step": self.step})})
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        partial.replace(path)

    def load(self, path: Path) -> None:
        """Restore a checkpoint of the same configuration; raises TrainError when it is damaged or another one's."""
        try:
            tensors, step = load_file(path), read_step(path)
            self.model.load_state_dict(_part(tensors, "model."))
            if self.average:
                self.average.load_state_dict(_part(tensors, "average."))
            saved = self.optimizer.state_dict()
            saved["state"] = _nested(_part(tensors, "optimizer."))
            self.optimizer.load_state_dict(saved)
        except (SafetensorError, RuntimeError, KeyError, ValueError) as error:
            raise TrainError(
                f"the checkpoint {path.name} cannot be used",
                got=str(error).splitlines()[0],
                expected="a checkpoint of this very configuration",
                hint="train again into another --out",
            ) from error
        self.step = step


def schedule(step: int, steps: int, warmup: float) -> float:
    """The learning rate's factor: linear from 0 to 1 over the first `warmup` share, then a half cosine to 0.

    >>> [round(schedule(step, 10, 0.2), 2) for step in (0, 1, 2, 9)]
    [0.5, 1.0, 1.0, 0.04]
    """
    rising = warmup * steps
    if step < rising:
        return min(1.0, (step + 1) / rising)
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1.0, steps - rising)))


def read_step(path: Path) -> int:
    """How many steps a checkpoint has done, read from its header alone."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return int(json.loads(file.metadata()["featcache"])["step"])


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _nested(flat: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in flat.items():
        index, _, entry = name.partition(".")
        state.setdefault(int(index), {})[entry] = value
    return state
