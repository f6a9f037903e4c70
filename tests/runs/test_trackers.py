"""Trackers of experiments: trackio runs for real, as it needs no server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

import featcache as fc
from featcache.errors import ConfigError, MissingExtra, Notice
from featcache.runs import trackers

READ = """
import json, sys, trackio
from trackio.sqlite_storage import SQLiteStorage
runs = {run.name: run for run in trackio.Api().runs(sys.argv[1])}
logs = {name: SQLiteStorage.get_logs(sys.argv[1], name) for name in runs}
print(json.dumps({name: [dict(runs[name].config), logs[name]] for name in runs}, default=str))
"""


def test_trackio_receives_a_training(
    make_cache: Callable[..., Path], tmp_path: Path, spawn: Callable[..., Any]
) -> None:
    cache = make_cache(tmp_path / "c.zarr", weak=1)
    environment = os.environ | {"TRACKIO_DIR": str(tmp_path / "trackio"), "HF_HUB_OFFLINE": "1"}
    asked = ["--objective", "supervised", "--set", "optim.steps=6", "--set", "log.every=3", "--set", "cv=2"]
    command = [sys.executable, "cli.py", "train", str(cache), "--labels-per-class", "2", *asked]
    out = tmp_path / "runs" / "first"
    done = subprocess.run(
        [*command, "--out", str(out), "--log", "trackio", "--json"],
        env=environment,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    read = subprocess.run(
        [sys.executable, "-c", READ, "runs"], env=environment, capture_output=True, text=True
    )
    options, logs = json.loads(read.stdout.splitlines()[-1])["first"]
    assert (options["objective"], options["optim.steps"]) == ("supervised", 6)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    losses = {log["step"]: log["train/loss"] for log in logs if "train/loss" in log}
    assert losses == {line["step"]: pytest.approx(line["loss"]) for line in lines}
    (figures,) = [log for log in logs if "test/accuracy" in log]
    assert figures["test/accuracy"] == pytest.approx(result["test"]["accuracy"])


class Failing:
    """A tracker whose server is gone after the first value."""

    def __init__(self, project: str, name: str, options: Mapping[str, Any]) -> None:
        self.values: list[tuple[int, Mapping[str, float]]] = []

    def log(self, values: Mapping[str, float], step: int) -> None:
        if self.values:
            raise OSError("no route to host")
        self.values.append((step, values))

    def finish(self) -> None:
        raise AssertionError("it has failed before")


def test_a_tracker_that_fails_ends_no_training(
    make_cache: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trackers, "TRACKERS", {"trackio": Failing})
    cache = make_cache(tmp_path / "c.zarr")
    options = {"optim": {"steps": 3}, "log": {"every": 1}, "projector": {"heads": 2}}
    with pytest.warns(Notice, match="no route to host"):
        run = fc.train(
            cache, "supervised", labels_per_class=2, out=tmp_path / "run", options=options, log="trackio"
        )
    assert run.accuracy > 0


def test_a_tracker_that_cannot_begin(
    make_cache: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begin(*given: Any) -> Any:
        raise OSError("no account")

    monkeypatch.setattr(trackers, "TRACKERS", {"trackio": begin})
    cache = make_cache(tmp_path / "c.zarr")
    with pytest.raises(ConfigError, match="no account"):
        fc.train(cache, "knn", labels_per_class=2, out=tmp_path / "run", log="trackio")
    run = fc.train(cache, "knn", labels_per_class=2, out=tmp_path / "run")
    assert run.accuracy > 0


def test_no_such_tracker(
    make_cache: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = make_cache(tmp_path / "c.zarr")
    with pytest.raises(ConfigError, match="is no tracker"):
        fc.train(cache, "knn", labels_per_class=2, out=tmp_path / "run", log="wandbb")
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(MissingExtra, match="pip install mlflow"):
        fc.train(cache, "knn", labels_per_class=2, out=tmp_path / "run", log="mlflow")
    assert not (tmp_path / "run").exists()
