"""The command line of extraction: what it prints, how it ends, and that help costs nothing."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from click.testing import Result

from featcache import cli

pytestmark = pytest.mark.usefixtures("one_thread")

Model = Callable[[str], str]
Command = Callable[..., Result]
Spawn = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def arguments(photos: Path, frozen: Model, tmp_path: Path) -> list[object]:
    """`featcache extract` of the photos through the tiny module."""
    out = tmp_path / "c.zarr"
    return ["extract", photos, "--model", frozen("tiny"), "--out", out, "--num-workers", 0, "--shard-size", 2]


def test_help_of_every_command_comes_without_the_heavy_libraries() -> None:
    script = (
        "import sys; from featcache.cli import main\n"
        "typed = {'copy', 'extract', 'import'}\n"
        "for name in ['', *sorted(main.commands, key=typed.__contains__)]:\n"
        "    light = 'pydantic' not in sys.modules if name not in typed else light\n"
        "    main([*filter(None, [name]), '--help'], standalone_mode=False)\n"
        "print(light, [name for name in ('torch', 'numpy', 'zarr', 'PIL') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    *text, heavy = done.stdout.splitlines()
    assert heavy == "True []"  # the last ones may import pydantic: their flags are fields of options
    assert sum(line.startswith("Usage: ") for line in text) == 1 + len(cli.main.commands)
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["extract", "digits", "--out", "c.zarr"], "Missing option '--model'"),
        (["extract", "--model", "m", "--out", "c.zarr"], "Missing argument 'SOURCE'"),
        (["extract", "digits", "--model", "m", "--out", "c.zarr", "--dtype", "int4"], "'--dtype'"),
        (["extract", "digits", "--model", "m", "--out", "c.zarr", "--batch-size", "0"], "'--batch-size'"),
        (["extract", "digits", "--model", "m", "--out", "c.zarr", "--colour", "red"], "No such option"),
        (["predict", "run", "--out", "p.csv"], "Missing argument 'CACHE'"),
        (["predict", "run", "c.zarr"], "Missing option '--out'"),
        (["distil"], "No such command 'distil'"),
    ],
)
def test_a_wrong_use_ends_with_2(featcache: Command, arguments: list[str], said: str) -> None:
    result = featcache(*arguments, code=2)
    assert said in result.stderr
    assert result.stdout == ""


URL = "s3://bucket/key"


@pytest.mark.parametrize("flag", ["--out", "source"])
def test_a_bucket_is_refused(featcache: Command, tmp_path: Path, flag: str) -> None:
    places = (URL, "--out", tmp_path / "c.zarr") if flag == "source" else ("digits", "--out", URL)
    for more in ((), ("--dry-run",)):
        result = featcache("extract", *places, "--model", "open_clip:glyph-clip", *more, code=1)
        assert URL in result.stderr
        assert result.stdout == ""
    assert not list(Path.cwd().glob("s3:*"))


PLACES = (
    ["train", URL, "--objective", "knn", "--num-labels", "6", "--out", "run"],
    ["train", "c.zarr", "--objective", "knn", "--num-labels", "6", "--out", URL],
    [
        "train",
        "c.zarr",
        "--objective=unsupervised",
        "--num-labels=6",
        "--out=run",
        f"--set=data.replay={URL}",
    ],
    ["predict", URL, "c.zarr", "--out", "p.csv"],
    ["predict", "run", URL, "--out", "p.csv"],
    ["predict", "run", "c.zarr", "--out", URL],
    ["run", "quickstart", "--out", URL],
    ["run", URL],
    ["bench", URL],
    ["info", URL],
    ["compare", URL],
)


@pytest.mark.parametrize("arguments", PLACES, ids=" ".join)
def test_a_bucket_is_refused_in_every_command(
    featcache: Command,
    make_cache: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    make_cache(tmp_path / "c.zarr")
    before = sorted(path.name for path in tmp_path.iterdir())
    result = featcache(*arguments, code=1)
    assert URL in result.stderr
    assert result.stdout == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_an_extraction_ends_with_its_summary(
    featcache: Command, arguments: list[object], photos: Path
) -> None:
    (photos / "train" / "dog" / "08.png").write_bytes(b"")
    result = featcache(*arguments, "--views", "weak=1")
    said, cats, others, train, stages, failed, test, _, where = result.stdout.splitlines()
    assert said.startswith(f"{photos}: ")
    assert "cat/00.png is of class `cat`" in said
    assert cats == "  train: 10 rows, 2 classes (cat 5, dog 5)"
    assert others == "  test: 4 rows, 2 classes (cat 2, dog 2)"
    assert train.startswith("train: 10 rows, 20 views computed in ")
    assert train.endswith(" kB, 1 failed")
    assert failed == "  failed: dog/08.png: the file is empty (0 bytes)"
    assert re.match(
        r"  read \d+\.\d s, wait \d+\.\d s, forward \d+\.\d s, write \d+\.\d s; bound by ", stages
    )
    assert test.startswith("test: 4 rows, 8 views computed in ")
    assert where == f"cache: {arguments[5]}"
    assert result.stderr == ""
    again = featcache(*arguments, "--views", "weak=1").stdout
    assert "train: 10 rows, 0 views computed" in again
    assert failed in again
    assert "bound by" not in again


def test_many_failures_are_counted(featcache: Command, tmp_path: Path, photos: Path, frozen: Model) -> None:
    for row in range(15):
        (photos / "train" / "cat" / f"bad{row:02}.png").write_bytes(b"")
    out = featcache(
        "extract", photos, "--model", frozen("tiny"), "--out", tmp_path / "c.zarr", "--split", "train"
    ).stdout
    assert "15 failed" in out
    assert out.count("  failed: cat/bad") == 10
    assert "  and 5 more\n" in out


def test_the_bar_is_for_terminals_only(
    arguments: list[object], photos: Path, frozen: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from featcache.stages.extract import extract

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return self.tty

    for tty in (False, True):
        screen = Terminal()
        screen.tty = tty  # type: ignore[attr-defined]
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stderr", screen)
            extract(photos, frozen("tiny"), tmp_path / f"{tty}.zarr")
        shown = screen.getvalue()
        assert ("train: 100%" in shown and "10/10" in shown and "samples/s" in shown) == tty
        assert (shown == "") != tty
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", screen)
        extract(photos, frozen("tiny"), tmp_path / "off.zarr", progress=False)
    assert screen.getvalue() == shown


def test_a_dry_run_prints_shape_bytes_and_time(featcache: Command, arguments: list[object]) -> None:
    result = featcache(
        *arguments, "--dry-run", "--layer", "-1|-2", "--tokens", "patch", "--views", "strong=2"
    )
    *said, shapes, other, train, test, total = result.stdout.splitlines()
    assert "  train: 10 rows, 2 classes (cat 5, dog 5)" in said
    assert total.startswith("in all: 22.3 kB of ")
    assert shapes == "tokens of layer -1: 16 x 8, pooled: 8"
    assert other == "tokens of layer -2: 16 x 8, pooled: 8"
    assert train.startswith("train: 10 rows x 3 views, 15.9 kB, about ")
    assert test.startswith("test: 4 rows x 3 views, 6.4 kB, about ")
    assert not Path(str(arguments[5])).exists()


def test_info_of_a_whole_and_of_a_begun_cache(
    featcache: Command, arguments: list[object], frozen: Model
) -> None:
    featcache(*arguments, "--views", "weak=1")
    path = Path(str(arguments[5]))
    text = featcache("info", path).stdout
    content = json.loads(featcache("info", path, "--json").stdout)
    assert "model:   python:frozen_modules.py:tiny" in text
    assert "train: 10 rows, 10 labelled, 0 failed, complete" in text
    assert content["views"] == ["eval", "weak0"]
    assert content["classes"] == ["cat", "dog"]
    assert content["bytes"] == sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    assert content["splits"]["test"] == {
        "rows": 4,
        "labelled": 4,
        "unlabelled": 0,
        "classes": {"cat": 2, "dog": 2},
        "failed": 0,
        "shards": 4,
        "missing_shards": 0,
    }
    (path / "train" / "tokens" / "c" / "2" / "1" / "0" / "0").unlink()
    (path / "train" / "status" / "ledger" / "0.0.json").unlink()
    assert "train: 10 rows, 10 labelled, 0 failed, 2 of 10 shards missing" in featcache("info", path).stdout
    content = json.loads(featcache("info", path, "--json").stdout)
    assert content["splits"]["train"]["missing_shards"] == 2
    result = featcache("info", path.parent, code=1)
    assert result.stderr.startswith(f"error: no featcache cache at {path.parent}")
    assert result.stdout == ""


def _begun(process: subprocess.Popen[str], out: Path) -> None:
    late = time.monotonic() + 60
    while not list(out.glob("train/status/ledger/?.?.json")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < late
        time.sleep(0.01)


@pytest.mark.parametrize("workers", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_interrupted_it_says_so_and_goes_on_later(
    featcache: Command,
    spawn: Spawn,
    photos: Path,
    frozen: Model,
    tmp_path: Path,
    tree: Callable[[Path], Mapping[str, bytes]],
    monkeypatch: pytest.MonkeyPatch,
    workers: int,
) -> None:
    for row in range(40):
        (photos / "train" / "cat" / f"more{row:02}.png").hardlink_to(photos / "train" / "cat" / "00.png")
    monkeypatch.setenv("PAUSE", "0.06")
    command: list[object] = [
        "extract",
        photos,
        "--model",
        frozen("slow"),
        "--shard-size",
        2,
        "--batch-size",
        1,
    ]
    out, whole = tmp_path / "c.zarr", tmp_path / "whole.zarr"
    # A suite started in the background ignores the signal, and would hand that down.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    process = spawn(*command, "--out", out, "--num-workers", workers, start_new_session=True)
    monkeypatch.setenv("PAUSE", "0")
    _begun(process, out)
    busy = featcache(*command, "--out", out, "--num-workers", 0, code=1)
    assert (
        f"error: another process is writing {out}\n  got:      featcache process {process.pid} on"
        in busy.stderr
    )
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the workers hear it too
    printed, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "error" not in printed
    assert re.fullmatch("interrupted: .*repeat.*--resume.*\n", errors)  # one line, no traceback
    assert not list(out.rglob("*.partial"))
    assert not out.with_name("c.zarr.lock").exists()
    assert " shards missing" in featcache("info", out).stdout
    for path in (out, whole):
        featcache(*command, "--out", path, "--num-workers", 0)
    assert tree(out) == tree(whole)
