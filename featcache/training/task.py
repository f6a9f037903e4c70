"""Save the task of a run beside its checkpoint, so that prediction does not need the cache of the training.

The checkpoint holds the tensors of an objective. The task file holds the arguments of its constructor
(directions, counts), or the samples that a probe was fitted on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from safetensors.torch import load
from safetensors.torch import save as serialize
from torch import Tensor

from featcache.cache.spec import FeatureSpec
from featcache.config import Config
from featcache.objectives.base import ProbeData, Task
from featcache.runs.saved import header, read_tensors, readable, write_tensors
from featcache.training.state import unshared

_EXPECTED = "a task file, as a training writes it"
TaskT = TypeVar("TaskT", Task, ProbeData)


class FeatureOrigin(Config):
    """The origin of a run's features, and the names of its classes."""

    features: FeatureSpec
    class_names: tuple[str, ...]


def save_task(path: Path, task: Task | ProbeData, origin: FeatureOrigin) -> None:
    """Write a task file in safetensors, atomically; values that are no tensors go to the header."""
    tensors = {name: value for name, value in vars(task).items() if isinstance(value, Tensor)}
    rest = {name: value for name, value in vars(task).items() if name not in tensors}
    metadata = header({"task": rest, "origin": origin.model_dump(mode="json")})
    write_tensors(path, serialize(unshared(tensors), metadata))


def load_task(path: Path, kind: type[TaskT]) -> tuple[TaskT, FeatureOrigin]:
    """Read a task file; raises TrainError if it is missing, damaged or of another kind."""
    with readable(path, _EXPECTED):
        data, noted = read_tensors(path)
        fields: dict[str, Any] = {**load(data), **noted["task"]}
        return kind(**fields), FeatureOrigin.model_validate(noted["origin"])


def load_origin(path: Path) -> FeatureOrigin:
    """Read the origin in a task file of any kind; raises TrainError if it is missing or damaged."""
    with readable(path, _EXPECTED):
        return FeatureOrigin.model_validate(read_tensors(path)[1]["origin"])
