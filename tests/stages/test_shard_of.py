"""Parts of one cache by processes that know nothing of each other: its bytes are those of one process."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from featcache.cache.reader import CacheReader
from featcache.cache.storage import held, storage_at
from featcache.errors import CacheError, CacheMismatch, ConfigError
from featcache.stages.extract import extract

pytestmark = pytest.mark.usefixtures("one_thread")

Model = Callable[[str], str]
Tree = Callable[[Path], Mapping[str, bytes]]
OPTIONS: dict[str, Any] = {
    "views": "weak=1",
    "limit": 9,
    "shard_size": "2",
    "batch_size": 2,
    "num_workers": 0,
}


def part_of(out: Path, model: str, part: str, **more: Any) -> None:
    extract("digits", model, out, shard_of=part, **OPTIONS | more)


def views_missing(out: Path) -> int:
    cache = CacheReader.open(out)
    return sum(unit.stop - unit.start for name in cache.split_names for unit in cache.split(name).missing())


@pytest.mark.parametrize("parts", [1, 2, 3, 40])
@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_parts_in_any_order_are_the_whole(
    tmp_path: Path, frozen: Model, tree: Tree, parts: int, dtype: str
) -> None:
    extract("digits", frozen("tiny"), tmp_path / "whole", **OPTIONS, dtype=dtype)
    order = random.Random(parts).sample(range(1, parts + 1), parts)
    left = []
    for number in order:
        part_of(tmp_path / "parts", frozen("tiny"), f"{number}/{parts}", dtype=dtype)
        left.append(views_missing(tmp_path / "parts"))
    assert left == sorted(left, reverse=True)
    assert left[-1] == 0
    assert tree(tmp_path / "parts") == tree(tmp_path / "whole")
    if 1 < parts < 10:  # ten blocks in all
        assert all(a > b for a, b in pairwise(left))
    assert {path.name for path in tmp_path.iterdir()} == {"whole", "parts"}


def test_a_part_that_is_done_is_not_done_again(
    tmp_path: Path, frozen: Model, featcache: Callable[..., Any]
) -> None:
    out = tmp_path / "c.zarr"
    flags = ["--views", "weak=1", "--limit", 9, "--shard-size", "2", "--batch-size", 2, "--num-workers", 0]
    asked = ["extract", "digits", "--model", frozen("tiny"), "--out", out, *flags]
    first = featcache(*asked, "--shard-of", "1/2").output
    assert "views are not there yet: other parts compute them" in first
    assert "train: 9 rows, 0 views computed" in featcache(*asked, "--shard-of", "1/2").output
    last = featcache(*asked, "--shard-of", "2/2").output
    assert "not there yet" not in last


@pytest.mark.slow
def test_processes_at_once_some_of_them_killed(
    tmp_path: Path,
    frozen: Model,
    tree: Tree,
    spawn: Callable[..., subprocess.Popen[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PAUSE", "0.05")
    flags = ["--views", "weak=1", "--limit", 20, "--shard-size", "2", "--batch-size", 2, "--num-workers", 0]
    asked = ["extract", "digits", "--model", frozen("slow"), "--out", tmp_path / "parts", *flags]

    def start(number: int) -> subprocess.Popen[str]:
        return spawn(*asked, "--shard-of", f"{number}/3")

    waiting, rng, kills = {number: start(number) for number in (1, 2, 3)}, random.Random(0), 0
    while waiting:
        time.sleep(rng.uniform(0.2, 1.5))
        for number, process in list(waiting.items()):
            if process.poll() is None and kills < 6 and rng.random() < 0.3:
                process.send_signal(signal.SIGKILL)
                process.communicate()
                waiting[number], kills = start(number), kills + 1
            elif process.poll() is not None:
                _, errors = waiting.pop(number).communicate()
                assert process.returncode == 0, errors
    assert kills == 6
    options = OPTIONS | {"limit": 20}
    monkeypatch.setenv("PAUSE", "0")
    extract("digits", frozen("slow"), tmp_path / "whole", **options)
    assert tree(tmp_path / "parts") == tree(tmp_path / "whole")
    assert {path.name for path in tmp_path.iterdir()} == {"whole", "parts"}


class TestRefused:
    @pytest.mark.parametrize("part", ["0/3", "4/3", "3", "1/0", "-1/3", "1/3/5", "a/b", "1/1000000"])
    def test_no_part(self, tmp_path: Path, frozen: Model, part: str) -> None:
        with pytest.raises(ConfigError, match="no part of an extraction"):
            part_of(tmp_path / "c.zarr", frozen("tiny"), part)
        assert not (tmp_path / "c.zarr").exists()

    def test_a_dry_run(self, tmp_path: Path, frozen: Model, featcache: Callable[..., Any]) -> None:
        asked = ["extract", "digits", "--model", frozen("tiny"), "--out", tmp_path / "c.zarr", "--dry-run"]
        assert "--shard-of" in featcache(*asked, "--shard-of", "1/2", code=2).output

    def test_overwriting(self, tmp_path: Path, frozen: Model) -> None:
        with pytest.raises(ConfigError, match="exclude each other"):
            part_of(tmp_path / "c.zarr", frozen("tiny"), "1/2", overwrite=True)

    def test_another_writer_while_a_part_is_written(self, tmp_path: Path, frozen: Model) -> None:
        out = tmp_path / "c.zarr"
        with held(storage_at(out).lock_part("2-of-3")):
            for other in ({}, {"shard_of": "1/2"}, {"overwrite": True}, {"shard_of": "2/3"}):
                with pytest.raises(CacheError, match=r"another process is writing[\s\S]*process \d+ on"):
                    extract("digits", frozen("tiny"), out, **OPTIONS, **other)
            part_of(out, frozen("tiny"), "1/3")
        extract("digits", frozen("tiny"), out, **OPTIONS)
        assert views_missing(out) == 0

    def test_other_options(self, tmp_path: Path, frozen: Model) -> None:
        part_of(tmp_path / "c.zarr", frozen("tiny"), "1/2")
        with pytest.raises(CacheMismatch, match="dtype"):
            part_of(tmp_path / "c.zarr", frozen("tiny"), "2/2", dtype="int8")
