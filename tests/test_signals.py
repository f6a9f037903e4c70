"""Signals and sudden ends, as real processes: exit codes, no traceback, no process left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

Spawn = Callable[..., "subprocess.Popen[str]"]
FOREVER = ["--objective", "supervised", "--set", "optim.steps=900000", "--set", "data.residency=stream"]


@pytest.fixture
def training(
    spawn: Spawn, make_cache: Callable[..., Path], tmp_path: Path
) -> Iterator[subprocess.Popen[str]]:
    """A training that reads from disk and never ends, after its first steps."""
    # A suite started with nohup ignores the signal, and would hand that down.
    ignored = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    cache = make_cache(tmp_path / "c.zarr")
    more = ["--set", "projector.heads=2", "--out", tmp_path / "run", "--device", "cpu"]
    process = spawn("train", cache, *FOREVER, *more, start_new_session=True)
    signal.signal(signal.SIGHUP, ignored)
    _wait_for(lambda: (tmp_path / "run" / "metrics.jsonl").is_file(), process)
    time.sleep(0.5)
    yield process
    process.kill()
    process.communicate()


def _wait_for(there: Callable[[], object], process: subprocess.Popen[str], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not there():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


def _group(process: subprocess.Popen[str]) -> list[int]:
    """The processes of the group that still run."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            state = (entry / "stat").read_text().rpartition(") ")[2].split() if entry.name.isdigit() else []
        except OSError:
            continue
        if state and int(state[2]) == process.pid and state[0] != "Z":
            found.append(int(entry.name))
    return found


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_ends_a_training_with_the_code_of_the_shell(
    training: subprocess.Popen[str], number: int, code: int
) -> None:
    training.send_signal(number)
    _, errors = training.communicate(timeout=30)
    assert training.returncode == code
    assert "Traceback" not in errors
    assert "--resume" in errors


def test_a_shard_truncated_under_a_training_is_an_error_that_names_it(
    training: subprocess.Popen[str], tmp_path: Path
) -> None:
    shards = list((tmp_path / "c.zarr" / "train" / "tokens" / "c").rglob("0"))
    for shard in filter(Path.is_file, shards):
        os.truncate(shard, 0)
    _, errors = training.communicate(timeout=60)
    assert training.returncode == 1
    assert "Traceback" not in errors
    assert "train/tokens/c/" in errors


def test_a_truncated_shard_ends_a_training_whose_terminal_is_gone(
    training: subprocess.Popen[str], tmp_path: Path
) -> None:
    for pipe in (training.stdout, training.stderr):
        assert pipe is not None
        pipe.close()
    for shard in filter(Path.is_file, (tmp_path / "c.zarr" / "train" / "tokens" / "c").rglob("0")):
        os.truncate(shard, 0)
    assert training.wait(30) == 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_reading_processes_end_with_their_parent(
    spawn: Spawn,
    photos: Path,
    frozen: Callable[[str], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:
    monkeypatch.setenv("PAUSE", "1")
    options: dict[str, Any] = {"start_new_session": True, "stderr": subprocess.DEVNULL}
    options["stdout"] = subprocess.DEVNULL
    command = ["extract", photos, "--model", frozen("slow"), "--out", tmp_path / "c.zarr", "--batch-size", 1]
    process = spawn(*command, "--num-workers", 2, **options)
    # The process itself, the server of the others, the tracker of their memory, and two that read.
    _wait_for(lambda: len(_group(process)) >= 5, process)
    process.send_signal(number)
    process.wait(30)
    end = time.monotonic() + 15
    while left := _group(process):
        assert time.monotonic() < end, left
        time.sleep(0.05)
