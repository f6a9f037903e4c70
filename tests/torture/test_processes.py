"""Several processes on one cache, and reading processes that die."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.torture.commands import Arguments, extraction, files, run_files, training
from tests.torture.forge import members, stray

pytestmark = pytest.mark.torture
MAIN = Path(__file__).parents[2] / "cli.py"


def start(arguments: Arguments) -> subprocess.Popen[str]:
    """Start a command in a process of its own, and of its own group."""
    command = [sys.executable, "-W", "error", str(MAIN), *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, text=True, start_new_session=True, **pipes)


@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("name", ["extract", "train"])
def test_one_of_several_works_and_the_others_say_so(
    prepared: Path,
    tmp_path: Path,
    count: Callable[..., int],
    figure: Callable[..., None],
    name: str,
    processes: int,
) -> None:
    cache, refused = prepared / "whole.zarr", 0
    for turn in range(times := count(10, 1)):
        out = tmp_path / str(turn)
        arguments = extraction(out) if name == "extract" else (*training(cache, out), "--resume")
        running = [start(arguments) for _ in range(processes)]
        ends = [(process.communicate(timeout=300)[1], process.returncode) for process in running]
        for errors, code in ends:
            assert "Traceback" not in errors
            assert code == 0 or "another process" in errors, errors
        refused += sum(code == 1 for _, code in ends)
        assert any(code == 0 for _, code in ends)
        assert (
            (files(out) == files(cache))
            if name == "extract"
            else (run_files(out) == run_files(prepared / "run"))
        )
    figure(f"`{name}` by {processes} processes at once", times, refused_by_the_lock=refused, other_content=0)


def test_the_death_of_a_reading_process_ends_the_extraction_and_the_next_goes_on(
    prepared: Path, tmp_path: Path, count: Callable[..., int], rng: random.Random, figure: Callable[..., None]
) -> None:
    out, killed, left = tmp_path / "c.zarr", 0, 0
    arguments = ("extract", "digits", "--model", "open_clip:glyph-clip", "--limit", 300, "--tokens", "cls")
    arguments = (*arguments, "--batch-size", 4, "--shard-size", 40, "--num-workers", 2)
    process = start((*arguments, "--out", tmp_path / "whole.zarr"))
    assert process.communicate(timeout=300)
    assert process.returncode == 0
    for _ in range(times := count(40, 2)):
        process = start((*arguments, "--out", out))
        late, workers = time.monotonic() + 60, list[int]()
        while process.poll() is None and time.monotonic() < late and len(workers) < 2:
            time.sleep(0.05)
            workers = [pid for pid in members(process.pid) if pid != process.pid and _is_worker(pid)]
        time.sleep(rng.uniform(0, 1))
        if process.poll() is None and workers:
            killed += 1
            os.kill(rng.choice(workers), signal.SIGKILL)
        begun = time.monotonic()
        _, errors = process.communicate(timeout=60)
        assert "Traceback" not in errors
        if process.returncode == 0:  # it was done already
            assert files(out) == files(tmp_path / "whole.zarr")
            shutil.rmtree(out)
        else:
            assert process.returncode == 1
            assert "a reading process died" in errors
            assert time.monotonic() - begun < 30
        left += stray(process.pid)
    process = start((*arguments, "--out", out))
    assert process.communicate(timeout=300)
    assert process.returncode == 0
    assert files(out) == files(tmp_path / "whole.zarr")
    assert left == 0
    figure("deaths of reading processes", times, killed_while_reading=killed, hangs=0, stray_processes=left)


def _is_worker(pid: int) -> bool:
    """Tell whether a process is a fork of the server that imports, and not that server."""
    try:
        parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        return b"forkserver" in Path(f"/proc/{parent}/cmdline").read_bytes()
    except OSError:
        return False
