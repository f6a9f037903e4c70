"""Extraction on a Dask cluster: the bytes of one process, whoever dies meanwhile."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from featcache.cache.reader import CacheReader
from featcache.errors import CacheError, ConfigError, MissingExtra
from featcache.stages.extract import extract
from featcache.stages.pipeline import run_pipeline

pytestmark = pytest.mark.usefixtures("one_thread")

Model = Callable[[str], str]
Tree = Callable[[Path], Mapping[str, bytes]]
Spawn = Callable[..., "subprocess.Popen[str]"]
OPTIONS: dict[str, Any] = {
    "views": "weak=1",
    "limit": 20,
    "shard_size": "2",
    "batch_size": 2,
    "num_workers": 0,
}
FLAGS = [word for name, value in OPTIONS.items() for word in (f"--{name.replace('_', '-')}", value)]


def units_of(out: Path) -> int:
    return len(list(out.glob("*/status/ledger/*.*.json")))


def workers_of(coordinator: int) -> list[int]:
    """The worker processes that a coordinator has started."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            state = (entry / "stat").read_text().rpartition(")")[2].split()
            command = (entry / "cmdline").read_bytes()
        except (OSError, ValueError):
            continue
        if state and int(state[1]) == coordinator and b"spawn_main" in command:
            found.append(int(entry.name))
    return found


@pytest.fixture
def alone() -> Iterator[None]:
    """Nobody is left behind."""
    before = set(workers_of(os.getpid()))
    yield
    assert set(workers_of(os.getpid())) <= before


@pytest.mark.usefixtures("alone")
def test_workers_give_the_bytes_of_one_process(
    tmp_path: Path, frozen: Model, tree: Tree, summaries_of: Callable[..., Any]
) -> None:
    extract("digits", frozen("tiny"), tmp_path / "whole", **OPTIONS, dtype="int8")
    out = tmp_path / "spread"
    cache = extract("digits", frozen("tiny"), out, workers=3, **OPTIONS, dtype="int8")
    assert cache["train"].rows == 20
    assert tree(out) == tree(tmp_path / "whole")
    # With nothing to do, no cluster is started: this has no such scheduler.
    extract("digits", frozen("tiny"), out, scheduler="tcp://127.0.0.1:1", **OPTIONS, dtype="int8")
    assert {path.name for path in tmp_path.iterdir()} == {"whole", "spread"}


@pytest.mark.slow
def test_texts(tmp_path: Path, frozen: Model, tree: Tree) -> None:
    (tmp_path / "t.csv").write_text("text\n" + "\n".join(f"sentence number {n}" for n in range(50)))
    asked = (tmp_path / "t.csv", frozen("words"))
    more = {"shard_size": "4", "batch_size": 3}
    extract(*asked, tmp_path / "whole", **more)
    extract(*asked, tmp_path / "spread", workers=2, **more)
    assert tree(tmp_path / "spread") == tree(tmp_path / "whole")


@pytest.mark.slow
def test_workers_and_the_command_are_killed(
    tmp_path: Path, frozen: Model, tree: Tree, spawn: Spawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PAUSE", "2")
    out, moments, kills, before = tmp_path / "spread", random.Random(0), 0, 0
    asked = ["extract", "digits", "--model", frozen("slow"), "--out", out, *FLAGS, "--workers", 3]
    command = spawn(*asked)
    while kills < 20:
        time.sleep(moments.uniform(0.1, 1.5))
        assert command.poll() is None, command.communicate()
        if kills == 10:
            command.kill()
            command.communicate()
            command = spawn(*asked)
            kills, before = kills + 1, units_of(out)
        elif units_of(out) > before and (workers := workers_of(command.pid)):
            os.kill(moments.choice(workers), signal.SIGKILL)
            kills += 1
    _, errors = command.communicate(timeout=300)
    assert command.returncode == 0, errors
    monkeypatch.setenv("PAUSE", "0")
    extract("digits", frozen("slow"), tmp_path / "whole", **OPTIONS)
    assert tree(out) == tree(tmp_path / "whole")
    assert {path.name for path in tmp_path.iterdir()} == {"whole", "spread"}


@pytest.mark.slow
def test_a_scheduler_that_runs_already_and_is_killed(
    tmp_path: Path, frozen: Model, tree: Tree, spawn: Spawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PAUSE", "0.3")
    out = tmp_path / "spread"
    started: list[subprocess.Popen[str]] = []

    def dask(name: str, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "dask", name, *arguments, "--no-dashboard"]
        pipes: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        started.append(subprocess.Popen(command, cwd=tmp_path, text=True, **pipes))
        return started[-1]

    def cluster() -> tuple[subprocess.Popen[str], list[object]]:
        file = tmp_path / f"{len(started)}.json"
        scheduler = dask("scheduler", "--port", "0", "--host", "127.0.0.1", "--scheduler-file", str(file))
        for _ in range(2):
            dask("worker", "--nthreads", "2", "--death-timeout", "60", "--scheduler-file", str(file))
        late = time.monotonic() + 60
        while not file.exists() and time.monotonic() < late:
            time.sleep(0.1)
        address = json.loads(file.read_text())["address"]
        return scheduler, [
            "extract",
            "digits",
            "--model",
            frozen("slow"),
            "--out",
            out,
            *FLAGS,
            "--scheduler",
            address,
        ]

    try:
        scheduler, asked = cluster()
        command = spawn(*asked)
        late = time.monotonic() + 120
        while units_of(out) < 5 and time.monotonic() < late:
            time.sleep(0.05)
        scheduler.kill()
        _, errors = command.communicate(timeout=120)
        assert (command.returncode, "the scheduler" in errors, "Traceback" in errors) == (1, True, False), (
            errors
        )
        assert 5 <= units_of(out) < 40
        _, asked = cluster()
        command = spawn(*asked)
        said, errors = command.communicate(timeout=240)
        assert command.returncode == 0, errors
        assert "by worker: tcp://" in said
    finally:
        for process in started:
            process.kill()
            process.wait()
    monkeypatch.setenv("PAUSE", "0")
    extract("digits", frozen("slow"), tmp_path / "whole", **OPTIONS)
    assert tree(out) == tree(tmp_path / "whole")


@pytest.mark.slow
def test_a_sample_that_kills_every_process_that_reads_it(photos: Path, frozen: Model, tmp_path: Path) -> None:
    for name in ("train/cat/03.png", "train/dog/07.png"):
        Image.new("RGB", (20, 20), "white").save(photos / name)
    options = OPTIONS | {"shard_size": "4"}
    cache = extract(photos, frozen("deadly"), tmp_path / "c.zarr", workers=2, **options)
    reason = "reading it ends the process (exit status 3)"
    split = CacheReader.open(cache.path).split("train")
    assert split.failures() == dict.fromkeys((3, 7), reason)
    assert not split.missing()
    assert CacheReader.open(cache.path).split("test").complete()


@pytest.mark.slow
def test_a_worker_out_of_memory(
    tmp_path: Path, frozen: Model, tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HUNGRY", str(tmp_path / "was_hungry"))
    extract("digits", frozen("hungry_once"), tmp_path / "spread", workers=2, **OPTIONS)
    assert (tmp_path / "was_hungry").exists()
    extract("digits", frozen("hungry_once"), tmp_path / "whole", **OPTIONS)
    assert tree(tmp_path / "spread") == tree(tmp_path / "whole")


@pytest.mark.slow
def test_an_error_of_the_model_is_raised_as_it_is(photos: Path, frozen: Model, tmp_path: Path) -> None:
    Image.new("RGB", (20, 20), "white").save(photos / "train/dog/07.png")
    with pytest.raises(CacheError, match="the model gave nan"):
        extract(photos, frozen("nan"), tmp_path / "c.zarr", workers=2, **OPTIONS)


@pytest.mark.slow
def test_a_pipeline(tmp_path: Path, make_cache: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    make_cache(tmp_path / "c.zarr")
    (tmp_path / "study.toml").write_text(
        """
        [extract.one]
        source = "digits"
        model = "open_clip:glyph-clip"
        limit = 60
        tokens = "cls"
        [extract.two]
        cache = "c.zarr"
        [train]
        caches = ["two"]
        objectives = ["twinturbo", "fixmatch"]
        labels_per_class = [1, 2]
        seeds = [0, 1]
        [options]
        optim.steps = 5
        """
    )
    monkeypatch.chdir(tmp_path)  # workers start from here, too
    said: list[str] = []
    how: dict[str, Any] = {"say": said.append, "progress": False}
    run_pipeline("study.toml", out="alone", **how)
    assert not any("workers" in line for line in said)
    for _ in range(2):  # the second time, everything is finished
        run_pipeline("study.toml", out="spread", overrides={"cluster.workers": 2}, **how)
    assert any(line.startswith("workers: 2") for line in said)
    alone, spread = (
        {
            str(path.relative_to(folder)): {
                key: value for key, value in json.loads(path.read_text()).items() if "seconds" not in key
            }
            for path in folder.rglob("result.json")
        }
        for folder in (tmp_path / "alone", tmp_path / "spread")
    )
    assert len(alone) == 20
    assert alone.keys() == spread.keys()
    for path, result in alone.items():
        assert result["test"] == spread[path]["test"], path


class TestRefused:
    def test_both_ways(self, tmp_path: Path, frozen: Model) -> None:
        with pytest.raises(ConfigError, match="exclude each other"):
            extract("digits", frozen("tiny"), tmp_path / "c", workers=2, scheduler="tcp://h:1", **OPTIONS)
        with pytest.raises(ConfigError, match="`shard_of` and `workers` exclude each other"):
            extract("digits", frozen("tiny"), tmp_path / "c", workers=2, shard_of="1/2", **OPTIONS)
        assert not (tmp_path / "c").exists()

    def test_a_dry_run(self, tmp_path: Path, frozen: Model, featcache: Callable[..., Any]) -> None:
        asked = ["extract", "digits", "--model", frozen("tiny"), "--out", tmp_path / "c.zarr", "--dry-run"]
        assert "--workers" in featcache(*asked, "--workers", "2", code=2).output

    def test_no_scheduler(
        self, tmp_path: Path, frozen: Model, featcache: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("featcache.cluster.CONNECT_SECONDS", 1)
        asked = [
            "extract",
            "digits",
            "--model",
            frozen("tiny"),
            "--out",
            tmp_path / "c",
            *FLAGS,
            "--scheduler",
        ]
        assert "no Dask scheduler answers" in featcache(*asked, "tcp://127.0.0.1:1", code=1).output
        assert "tcp://host:8786" in featcache(*asked, "nonsense://x", code=1).output

    def test_without_the_extra(self, tmp_path: Path, frozen: Model, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "distributed", None)
        with pytest.raises(MissingExtra, match=r"featcache\[dask\]"):
            extract("digits", frozen("tiny"), tmp_path / "c", workers=2, **OPTIONS)

    def test_no_workers(self, tmp_path: Path, frozen: Model) -> None:
        with pytest.raises(ConfigError, match="workers"):
            extract("digits", frozen("tiny"), tmp_path / "c", workers=0, **OPTIONS)
