"""A run: one directory from which a training can be understood, resumed and repeated."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any

from featcache.config import flatten
from featcache.errors import TrainError
from featcache.files import explained, partial, write_atomic

CONFIG, RESULT, METRICS = "config.json", "result.json", "metrics.jsonl"
TASK, CHECKPOINT = "task.safetensors", "checkpoint.safetensors"


class Run:
    """A directory with config.json, environment.json, labels.json, task.safetensors and, once it is done,
    result.json; of a training in steps also metrics.jsonl, TensorBoard events and checkpoint.safetensors."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def at(cls, path: Path, config: Mapping[str, Any], *, resume: bool) -> Run:
        """The run to make at `path`, or to go on with if it has the very same configuration; writes nothing.

        Raises TrainError when the directory holds another run, or anything else.
        """
        run = cls(path)
        if (path / CONFIG).is_file():
            run._check(config, resume)
        elif path.exists() and not _is_empty(path):
            raise TrainError(
                f"{path} exists and is not a run; it is left as it is",
                got="a folder" if path.is_dir() else "a file",
                expected="a run, an empty folder or nothing",
                hint="choose another --out",
            )
        return run

    @classmethod
    def finished(cls, path: Path) -> Run:
        """The run at `path`; raises TrainError where there is none, or it is not done."""
        run = cls(path)
        config = run.config() if (path / CONFIG).is_file() else {}
        if not {"objective", "seed", "options"} <= config.keys():
            raise TrainError(
                f"no run at {path}",
                got="a folder or file that is something else" if path.exists() else "no such folder",
                hint="make one with `featcache train CACHE --objective NAME --out RUN`",
            )
        if run.result() is None:
            raise TrainError(
                f"the run {path} is not finished",
                got=f"no {RESULT}",
                hint="repeat its `featcache train` command with --resume",
            )
        return run

    def begin(self, config: Mapping[str, Any]) -> None:
        """Create the directory, and write down what is asked for and where."""
        with explained(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        self.write(CONFIG, config)
        self.write("environment.json", environment())

    def _check(self, config: Mapping[str, Any], resume: bool) -> None:
        asked, there = flatten(config), flatten(self.config())
        for key in sorted({*there, *asked}):
            mine, theirs = _canonical(asked.get(key)), _canonical(there.get(key))
            if mine != theirs:
                raise TrainError(
                    f"{self.path} holds another run: `{key}` differs",
                    got=mine,
                    expected=theirs,
                    hint="choose another --out, or repeat that run's options",
                )
        if not resume:
            state = "a finished" if self.result() else "an unfinished"
            raise TrainError(
                f"{self.path} holds {state} run of this very configuration",
                hint="add --resume to go on from it, or choose another --out",
            )

    def config(self) -> dict[str, Any]:
        """What the run was asked to do."""
        return _read(self.path / CONFIG)

    def result(self) -> dict[str, Any] | None:
        """The figures at the end; None while the run is not done."""
        path = self.path / RESULT
        return _read(path) if path.is_file() else None

    @property
    def checkpoint(self) -> Path:
        """Where the state is saved."""
        return self.path / CHECKPOINT

    @property
    def task(self) -> Path:
        """Where it is kept what the objective was told of the data."""
        return self.path / TASK

    def write(self, name: str, content: Mapping[str, Any]) -> None:
        """Write one JSON file atomically."""
        with explained(self.path / name):
            write_atomic(self.path / name, (json.dumps(content, indent=2) + "\n").encode())


class MetricLog:
    """Appends terms to metrics.jsonl and to TensorBoard events.

    Begun at step k, it drops what a killed run wrote after step k, and writes the events anew from the lines
    kept: a kill loses events that are not flushed, and never a line.
    """

    def __init__(self, run: Run, start: int) -> None:
        from tensorboardX import SummaryWriter

        path = run.path / METRICS
        for events in run.path.glob("events.out.tfevents.*"):
            events.unlink()
        found = path.read_text().splitlines(keepends=True) if path.is_file() else []
        kept = [line for line in found if _step(line) <= start]
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

    def __enter__(self) -> MetricLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lines.close()
        self._events.close()


def environment() -> dict[str, Any]:
    """What a result may depend on besides its configuration: versions, machine, command."""
    packages = ("featcache", "torch", "numpy", "scikit-learn", "zarr", "open_clip_torch", "timm")
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "packages": {name: _version(name) for name in packages},
        "command": sys.argv,
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _is_empty(path: Path) -> bool:
    """Whether the folder holds nothing, or the first file of a run that was killed while writing it."""
    return path.is_dir() and {entry.name for entry in path.iterdir()} <= {partial(path / CONFIG).name}


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise TrainError(f"{path} is damaged", got=error, hint="train again into another --out") from None


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _step(line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except ValueError:
        return sys.maxsize  # a line cut short by a kill is written again
