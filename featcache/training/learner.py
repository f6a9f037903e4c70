"""What a run learns with, made from what it is told of the data; and that kept, so that no cache is needed.

An objective's own tensors lie in the checkpoint. What its constructor was given (directions, counts), and
what a probe was fitted on, lie beside it: whatever an objective makes of them, it is made again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from safetensors.torch import save as serialize
from torch import Tensor

from featcache.cache.spec import FeatureSpec
from featcache.config import Config
from featcache.errors import TrainError
from featcache.files import explained, write_atomic
from featcache.nn.projector import Projector
from featcache.objectives.base import Objective, Probe, ProbeData, Task
from featcache.training import predictor
from featcache.training.options import TrainOptions
from featcache.training.state import TrainState, unshared

Kind = type[Objective[Any]] | type[Probe[Any]]


class Origin(Config):
    """Where the features of a run come from, and the names of the classes it tells apart."""

    features: FeatureSpec
    class_names: tuple[str, ...]


def build(
    kind: Kind,
    options: TrainOptions,
    task: Task | ProbeData,
    features: FeatureSpec,
    *,
    seed: int,
    device: torch.device,
) -> TrainState | predictor.Predict:
    """A probe, fitted; or projector and objective before the first step: there z is the frozen embedding."""
    own = kind.Options.parse(options.objective)
    if issubclass(kind, Probe):
        assert isinstance(task, ProbeData)
        return predictor.of_probe(kind(own).fit(task, seed))
    assert isinstance(task, Task)
    generator = torch.Generator().manual_seed(seed)
    projector = Projector(options.projector, features.dim, features.pooled, generator).to(device)
    return TrainState(projector, kind(own, task).to(device), options.optim)


def save_task(path: Path, task: Task | ProbeData, origin: Origin) -> None:
    """Write atomically, in safetensors: the tensors as they are, all else in the header."""
    tensors = {name: value for name, value in vars(task).items() if isinstance(value, Tensor)}
    rest = {name: value for name, value in vars(task).items() if name not in tensors}
    header = json.dumps({"task": rest, "origin": origin.model_dump(mode="json")})
    with explained(path):
        write_atomic(path, serialize(unshared(tensors), {"featcache": header}))


def load_task(path: Path, kind: type[Task] | type[ProbeData]) -> tuple[Task | ProbeData, Origin]:
    """What `save_task` wrote; raises TrainError if it is missing or damaged, or of another kind."""
    try:
        tensors = load_file(path)
        with safe_open(path, framework="pt") as file:
            header = json.loads(file.metadata()["featcache"])
        fields: dict[str, Any] = {**tensors, **header["task"]}
        return kind(**fields), Origin.model_validate(header["origin"])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise TrainError(
            f"{path} cannot be used",
            got=str(error).partition("\n")[0],
            expected="what the objective was told of the data, as `featcache train` keeps it",
            hint="train again into another --out",
        ) from error
