"""Save the task of a run beside its checkpoint, so that prediction does not need the cache of the training.

The checkpoint holds the tensors of an objective. The task file holds the arguments of its constructor
(directions, counts), or the samples that a probe was fitted on.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

from safetensors import safe_open
from safetensors.torch import load_file
from safetensors.torch import save as serialize
from torch import Tensor

from featcache.cache.spec import FeatureSpec
from featcache.config import Config
from featcache.files import explained, write_atomic
from featcache.objectives.base import ProbeData, Task
from featcache.runs.saved import readable
from featcache.training.state import unshared

TaskT = TypeVar("TaskT", Task, ProbeData)


class FeatureOrigin(Config):
    """The origin of a run's features, and the names of its classes."""

    features: FeatureSpec
    class_names: tuple[str, ...]


def save_task(path: Path, task: Task | ProbeData, origin: FeatureOrigin) -> None:
    """Write a task file in safetensors, atomically; values that are no tensors go to the header."""
    tensors = {name: value for name, value in vars(task).items() if isinstance(value, Tensor)}
    rest = {name: value for name, value in vars(task).items() if name not in tensors}
    header = json.dumps({"task": rest, "origin": origin.model_dump(mode="json")})
    with explained(path):
        write_atomic(path, serialize(unshared(tensors), {"featcache": header}))


def load_task(path: Path, kind: type[TaskT]) -> tuple[TaskT, FeatureOrigin]:
    """Read a task file; raises TrainError if it is missing, damaged or of another kind."""
    with readable(path, "a task file, as a training writes it"):
        tensors = load_file(path)
        with safe_open(path, framework="pt") as file:
            header = json.loads(file.metadata()["featcache"])
        fields: dict[str, Any] = {**tensors, **header["task"]}
        return kind(**fields), FeatureOrigin.model_validate(header["origin"])
