"""The folder of a run: everything to understand, resume and repeat one training."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Self

from featcache.config import flatten
from featcache.errors import TrainError, option
from featcache.files import partial
from featcache.locks import FileLock
from featcache.runs.saved import (
    CHECKPOINT,
    CONFIG,
    ENVIRONMENT,
    LABELS,
    RECORD,
    RESULT,
    TASK,
    make_record,
    read_json,
    write_json,
    writing,
)

Values = Mapping[str, Any]
LOCK = ".lock"


class RunFolder:
    """A folder with config.json, environment.json, labels.json, task.safetensors, reference.safetensors
    and, at the end, result.json.

    A training in steps also leaves metrics.jsonl, TensorBoard events and checkpoint.safetensors.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def at(cls, path: Path, config: Values, *, resume: bool, defaults: Values | None = None) -> Self:
        """Return the run at `path`, to be begun or resumed with this configuration. Write nothing.

        `defaults` hold for the keys that the run lacks, because an earlier version wrote it. Raises
        TrainError if the folder holds another run or anything else, or a run of this configuration without
        `resume`.
        """
        run = cls(path)
        if (path / CONFIG).exists():
            _check(run, config, resume, flatten(defaults or {}))
        elif path.exists() and not _is_empty(path):
            raise TrainError(
                f"{path} exists and is not a run; it is left as it is",
                got="a folder" if path.is_dir() else "a file",
                expected="a run, an empty folder or nothing",
                hint=f"choose another {option('out')}",
            )
        return run

    @classmethod
    def finished(cls, path: Path) -> Self:
        """Open the run at `path`; raises TrainError if there is none, or if it is not finished."""
        run = cls(path)
        config = run.config()
        if not {"objective", "seed", "options"} <= config.keys():
            raise TrainError(
                f"no run at {path}",
                got="something else" if path.exists() else "no such folder",
                hint="make one with `featcache train CACHE --objective NAME --out RUN`",
            )
        if run.result() is None:
            raise TrainError(
                f"the run {path} is not finished",
                got=f"no {RESULT}",
                hint=f"repeat its training with {option('resume', True)}",
            )
        return run

    def lock(self) -> FileLock:
        """Create the folder, and take the lock of its only training; raises TrainError, naming the holder."""
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        return FileLock(self.path / LOCK, f"training into {self.path}", TrainError)

    def begin(self, config: Mapping[str, Any], cache: Path) -> None:
        """Write the configuration, the environment and the path of the cache."""
        self.write(CONFIG, config)
        self.write(ENVIRONMENT, environment() | {"cache": str(cache)})

    def finish(self, result: Mapping[str, Any]) -> None:
        """Write the result, which makes the run a finished one, with a record of all other files."""
        self.write(RESULT, {**result, RECORD: make_record(self.path)})

    def config(self) -> dict[str, Any]:
        """Return the configuration; keys of earlier versions are renamed."""
        return _renamed(read_json(self.path / CONFIG) or {})

    def result(self) -> dict[str, Any] | None:
        """Return the result; None if the run is not finished."""
        if (result := read_json(self.path / RESULT)) is None:
            return None
        result.pop(RECORD, None)
        return _renamed(result)

    def labelled(self) -> dict[str, str | None]:
        """Return the class of each sample whose label the run has learned from, by id; empty if unknown.

        Runs of earlier versions do not say the class.
        """
        found = self._labels()
        ids = found.get("ids", [])
        return dict(zip(ids, found.get("classes", [None] * len(ids)), strict=True))

    @property
    def aside(self) -> frozenset[str]:
        """The ids of the labelled samples that were set aside to test the run."""
        return frozenset(self._labels().get("aside", ()))

    @property
    def labels_at_random(self) -> bool:
        """False if `suggest` chose some of the labelled samples, so they are not like the others."""
        return not self._labels().get("chosen", 0)

    def _labels(self) -> dict[str, Any]:
        return read_json(self.path / LABELS) or {}

    @property
    def checkpoint(self) -> Path:
        """The path of the checkpoint."""
        return self.path / CHECKPOINT

    @property
    def task(self) -> Path:
        """The path of the task file."""
        return self.path / TASK

    def write(self, name: str, content: Mapping[str, Any]) -> None:
        """Write one JSON file atomically."""
        write_json(self.path / name, content)


def is_run(path: Path) -> bool:
    """Return True if a folder holds a run, finished or not, or what is left of one."""
    return any((path / name).exists() for name in (CONFIG, RESULT))


def _check(run: RunFolder, config: Mapping[str, Any], resume: bool, defaults: Mapping[str, Any]) -> None:
    asked = flatten(config)
    there = {key: defaults[key] for key in defaults if key in asked} | flatten(run.config())
    for key in sorted({*there, *asked}):
        mine, theirs = _canonical(asked.get(key)), _canonical(there.get(key))
        if mine != theirs:
            raise TrainError(
                f"{run.path} holds another run: `{key}` differs",
                got=mine,
                expected=theirs,
                hint=f"choose another {option('out')}, or repeat that run's options",
            )
    if not resume:
        if not (done := run.result() is not None):
            run.lock().release()  # raises if it is being trained at this moment
        what = "its result is there already; show it again" if done else "continue it"
        raise TrainError(
            f"{run.path} holds {'a finished' if done else 'an unfinished'} run of this configuration",
            hint=f"{what} with {option('resume', True)}, or choose another {option('out')}",
        )


def environment() -> dict[str, Any]:
    """Return what else a result may depend on: versions, machine and command."""
    packages = ("featcache", "torch", "numpy", "scikit-learn", "zarr", "open_clip_torch", "timm")
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "packages": {name: version_of(name) for name in packages},
        "command": sys.argv,
    }


def cache_of(run: RunFolder) -> Path | None:
    """Return the path of the cache that a run was trained on, at that time; None if it is not recorded."""
    found = (read_json(run.path / ENVIRONMENT) or {}).get("cache")
    return None if found is None else Path(found)


def version_of(package: str) -> str | None:
    """Return the version of an installed package; None if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _is_empty(path: Path) -> bool:
    """Return True if the folder is empty, or holds only the lock and the first file of a killed run."""
    return path.is_dir() and {entry.name for entry in path.iterdir()} <= {partial(path / CONFIG).name, LOCK}


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _renamed(content: dict[str, Any]) -> dict[str, Any]:
    """Rename the keys of earlier versions, in which the replay cache was called `source`."""
    if "source" in content:
        content["replay"] = content.pop("source")
    data = content.get("options", {}).get("data", {})
    for key in [key for key in data if key == "source" or key.startswith("source_")]:
        data[key.replace("source", "replay", 1)] = data.pop(key)
    probes = content.get("probes", {})
    for key in [key for key in probes if key.startswith("source_")]:
        probes[key.replace("source", "replay", 1)] = probes.pop(key)
    return content
