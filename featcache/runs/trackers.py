"""Send a training to a tracker of experiments: mlflow, trackio or wandb, imported where it is used."""

from __future__ import annotations

import contextlib
import importlib
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Protocol

from featcache.errors import ConfigError, MissingExtra, Notice, option

Options = Mapping[str, Any]


class Tracker(Protocol):
    """A run of a tracker."""

    def log(self, values: Mapping[str, float], step: int) -> object:
        """Record values at a step."""

    def finish(self) -> object:
        """End the run."""


class _Wandb:
    module = "wandb"
    more: ClassVar[dict[str, Any]] = {}

    def __init__(self, project: str, name: str, options: Options) -> None:
        self._wandb = importlib.import_module(self.module)
        self._wandb.init(project=project, name=name, config=dict(options), **self.more)

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._wandb.log(dict(values), step=step)

    def finish(self) -> None:
        self._wandb.finish()


class _Trackio(_Wandb):  # it has the functions of wandb
    module = "trackio"
    more: ClassVar[dict[str, Any]] = {"embed": False}


class _Mlflow:
    def __init__(self, project: str, name: str, options: Options) -> None:
        self._mlflow = importlib.import_module("mlflow")
        self._mlflow.set_experiment(project)
        self._mlflow.start_run(run_name=name)
        self._mlflow.log_params(dict(options))

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._mlflow.log_metrics(dict(values), step=step)

    def finish(self) -> None:
        self._mlflow.end_run()


TRACKERS: Mapping[str, Callable[[str, str, Options], Tracker]] = {
    "mlflow": _Mlflow,
    "trackio": _Trackio,
    "wandb": _Wandb,
}


class Tracking:
    """Sends values to a tracker, or nowhere; a tracker that fails later ends no training."""

    def __init__(self, tracker: Tracker | None) -> None:
        self._tracker, self._step = tracker, 0

    def __call__(self, step: int, values: Mapping[str, float]) -> None:
        self._step = step
        self._call(lambda tracker: tracker.log({f"train/{k}": v for k, v in values.items()}, step=step))

    def figures(self, values: Mapping[str, float]) -> None:
        """Record figures of the finished training, at its last step."""
        self._call(lambda tracker: tracker.log(values, step=self._step))

    def finish(self) -> None:
        """End the run of the tracker."""
        self._call(lambda tracker: tracker.finish())

    def _call(self, call: Callable[[Tracker], object]) -> None:
        if self._tracker is None:
            return
        try:
            with contextlib.redirect_stdout(sys.stderr):
                call(self._tracker)
        except Exception as error:  # of a network or a server, of many types
            self._tracker = None
            said = f"{type(error).__name__}: {error}"
            warnings.warn(f"the tracker failed, and receives nothing more: {said}", Notice, stacklevel=2)


@contextmanager
def tracking(name: str | None, run: Path, options: Options) -> Iterator[Tracking]:
    """Open a run of the tracker `name`, in a project called as the folder that holds the run.

    Raises ConfigError for another name or if the tracker cannot begin, and MissingExtra if it is not
    installed.
    """
    found = Tracking(None if name is None else _begun(name, run, options))
    try:
        yield found
    finally:
        found.finish()


def require_tracker(name: str | None) -> None:
    """Raise ConfigError if there is no such tracker, and MissingExtra if it is not installed."""
    if name is None:
        return
    if name not in TRACKERS:
        raise ConfigError(
            f"{option('log')} is no tracker", got=repr(name), expected="mlflow, trackio or wandb"
        )
    try:
        importlib.import_module(name)
    except ImportError:
        hint = f"pip install {name}"
        raise MissingExtra(f"the package `{name}` is not installed", hint=hint) from None


def _begun(name: str, run: Path, options: Options) -> Tracker:
    require_tracker(name)
    where = run.resolve()
    try:
        with contextlib.redirect_stdout(sys.stderr):  # stdout is for the result
            return TRACKERS[name](where.parent.name or "featcache", where.name, options)
    except Exception as error:
        raise ConfigError(
            f"{name} cannot begin a run",
            got=f"{type(error).__name__}: {error}",
            hint=f"set it up, or leave out {option('log')}",
        ) from error
