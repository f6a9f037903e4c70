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
from featcache.files import explained, partial, write_atomic

CONFIG, RESULT, METRICS, LABELS = "config.json", "result.json", "metrics.jsonl", "labels.json"
TASK, CHECKPOINT = "task.safetensors", "checkpoint.safetensors"


Values = Mapping[str, Any]


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
        if (path / CONFIG).is_file():
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
        config = run.config() if (path / CONFIG).is_file() else {}
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

    def begin(self, config: Mapping[str, Any], cache: Path) -> None:
        """Create the folder, and write the configuration, the environment and the path of the cache."""
        with explained(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        self.write(CONFIG, config)
        self.write("environment.json", environment() | {"cache": str(cache)})

    def config(self) -> dict[str, Any]:
        """Return the configuration; keys of earlier versions are renamed."""
        return _renamed(_read(self.path / CONFIG))

    def result(self) -> dict[str, Any] | None:
        """Return the result; None if the run is not finished."""
        path = self.path / RESULT
        return _renamed(_read(path)) if path.is_file() else None

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
        path = self.path / LABELS
        return _read(path) if path.is_file() else {}

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
        with explained(self.path / name):
            write_atomic(self.path / name, (json.dumps(content, indent=2) + "\n").encode())


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
        done = run.result() is not None
        what = "its result is there already; show it again" if done else "continue it"
        raise TrainError(
            f"{run.path} holds {'a finished' if done else 'an unfinished'} run of this configuration",
            hint=f"{what} with {option('resume', True)}, or choose another {option('out')}",
        )


class MetricLog:
    """Append metrics to metrics.jsonl and to TensorBoard events.

    When it starts at step k, it drops lines after step k, which a killed run wrote. It writes the events
    again from the remaining lines, because a kill loses events that are not flushed.
    """

    def __init__(self, run: RunFolder, start: int) -> None:
        from tensorboardX import SummaryWriter

        path = run.path / METRICS
        for events in run.path.glob("events.out.tfevents.*"):
            events.unlink()
        found = path.read_text().splitlines(keepends=True) if path.is_file() else []
        # Runs of earlier versions called the replay cache `source`.
        kept = [line.replace('"source_share"', '"replay_share"') for line in found if _step(line) <= start]
        write_atomic(path, "".join(kept).encode())
        self._lines = path.open("a")
        self._events = SummaryWriter(str(run.path))
        for line in kept:
            self._show(**json.loads(line))

    def __call__(self, step: int, terms: Mapping[str, float]) -> None:
        self._lines.write(json.dumps({"step": step, **terms}) + "\n")
        self._lines.flush()
        self._show(step, **terms)

    def _show(self, step: int, **terms: float) -> None:
        for name, value in terms.items():
            self._events.add_scalar(f"train/{name}", value, step)

    def close(self) -> None:
        """Close both files."""
        self._lines.close()
        self._events.close()


def environment() -> dict[str, Any]:
    """Return what else a result may depend on: versions, machine and command."""
    packages = ("featcache", "torch", "numpy", "scikit-learn", "zarr", "open_clip_torch", "timm")
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "packages": {name: _version(name) for name in packages},
        "command": sys.argv,
    }


def cache_of(run: RunFolder) -> Path | None:
    """Return the path of the cache that a run was trained on, at that time; None if it is not recorded."""
    file = run.path / "environment.json"
    found = _read(file).get("cache") if file.is_file() else None
    return None if found is None else Path(str(found))


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _is_empty(path: Path) -> bool:
    """Return True if the folder is empty, or holds only the unfinished first file of a killed run."""
    return path.is_dir() and {entry.name for entry in path.iterdir()} <= {partial(path / CONFIG).name}


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise TrainError(
            f"{path} is damaged", got=error, hint=f"train again with another {option('out')}"
        ) from None


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _step(line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except ValueError:
        return sys.maxsize  # a line that a kill truncated is dropped and written again


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
