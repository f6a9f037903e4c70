"""Extractions that are killed, and what they need of memory: as processes of their own."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from featcache.stages.extract import extract

PROGRAM = Path(__file__).with_name("extracting.py")
pytestmark = pytest.mark.usefixtures("one_thread")

Model = Callable[[str], str]
Spawn = Callable[..., "subprocess.Popen[str]"]


def _lines(process: subprocess.Popen[str]) -> list[int]:
    out, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (0, "")
    return [int(line) for line in out.splitlines()]


@pytest.mark.slow
def test_killed_twenty_times_it_ends_byte_identical(
    tmp_path: Path,
    frozen: Model,
    spawn: Spawn,
    tree: Callable[[Path], Mapping[str, bytes]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    left = _lines(spawn("kill", frozen("slow"), tmp_path, 20, program=PROGRAM))
    assert len(left) == 20
    assert len({units for units in left if 0 < units < 40}) >= 5  # the kills were in the middle of things
    monkeypatch.setenv("PAUSE", "0")
    options = {"views": "weak=1", "limit": 20, "shard_size": "2", "batch_size": 2}
    extract("digits", frozen("slow"), tmp_path / "whole", **options)
    whole = tree(tmp_path / "whole")
    assert sum("tokens/c/" in name for name in whole) == 40
    caches = sorted(tmp_path.glob("*.zarr"))
    assert caches
    for cache in caches:
        assert tree(cache) == whole


@pytest.mark.slow
def test_overwriting_may_be_killed_too(
    tmp_path: Path,
    frozen: Model,
    spawn: Spawn,
    tree: Callable[[Path], Mapping[str, bytes]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PAUSE", "0")
    options = {"views": "weak=1", "limit": 20, "shard_size": "2", "batch_size": 2}
    extract("digits", frozen("slow"), tmp_path / "whole", **options)
    for number in range(6):
        extract("digits", frozen("tiny"), tmp_path / f"{number}.zarr", limit=3)
    monkeypatch.delenv("PAUSE")
    left = _lines(spawn("overwrite", frozen("slow"), tmp_path, 6, program=PROGRAM))
    assert any(0 < units < 40 for units in left)
    whole, caches = tree(tmp_path / "whole"), [tree(path) for path in sorted(tmp_path.glob("*.zarr"))]
    assert whole in caches
    assert all(cache in (whole, caches[-1]) for cache in caches)
    assert {path.name for path in tmp_path.iterdir()} == {"whole", *(f"{n}.zarr" for n in range(6))}


def test_memory_does_not_grow_with_the_number_of_samples(photos: Path, frozen: Model, spawn: Spawn) -> None:
    for row in range(2400):
        (photos / "train" / "cat" / f"more{row:04}.png").hardlink_to(photos / "train" / "cat" / "00.png")
    _, few, many = _lines(spawn("peak", frozen("wide"), photos, 300, 600, 2400, program=PROGRAM))
    features = (2400 - 600) * (17 + 1) * 1024 * 2
    assert many - few < features / 3
