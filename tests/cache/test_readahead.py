"""Rows that are on disk alone are asked for beforehand, those in memory copied once for each shard."""

from __future__ import annotations

import mmap
import os
import resource
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray

from featcache.cache import array as arrays
from featcache.cache import readahead
from featcache.cache.array import ShardedArray

ROWS = 300
VALUES = np.random.default_rng(0).standard_normal((ROWS, 1, 64, 128)).astype(np.float32)


def _store(path: Path, values: NDArray[Any] = VALUES, **options: Any) -> Path:
    kind: dict[str, Any] = {"shards": (64, 1, *values.shape[2:]), "chunks": (1, 1, *values.shape[2:])}
    array = zarr.create_array(
        path, shape=values.shape, dtype=values.dtype, compressors=None, **(kind | options)
    )
    array[...] = values
    return path


def _drop(path: Path) -> None:
    """Out of memory with every file; nobody has mapped them."""
    for file in (path / "c").rglob("*"):
        if file.is_file():
            with open(file, "rb") as opened:
                os.fsync(opened.fileno())
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows the disk was asked for, call by call."""
    seen: list[int] = []
    inner = readahead.ask

    def watched(mapped: mmap.mmap, starts: NDArray[np.int64], size: int) -> None:
        seen.append(len(starts))
        inner(mapped, starts, size)

    monkeypatch.setattr(readahead, "ask", watched)
    return seen


@pytest.mark.parametrize("seed", range(3))
def test_rows_from_disk_are_the_rows_from_memory(tmp_path: Path, asked: list[int], seed: int) -> None:
    path, rng = _store(tmp_path / "a"), np.random.default_rng(seed)
    for rows in (np.arange(ROWS), rng.permutation(ROWS), np.sort(rng.integers(0, ROWS, 100))):
        _drop(path)
        array, out = ShardedArray.open(path), np.empty((len(rows), 64, 128), np.float32)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_inblock
        assert np.array_equal(array.gather(rows, 0, out), VALUES[rows, 0])
        if resource.getrusage(resource.RUSAGE_SELF).ru_inblock == before:
            pytest.skip("the folder for temporary files is no disk")
        # Nothing comes from disk any more: the next gather may still ask, the one after it does not.
        array.gather(rows, 0, out)
        asked.clear()
        assert np.array_equal(array.gather(rows, 0, out), VALUES[rows, 0])
        array.read_ahead(rows, 0)
        assert not asked
        del array  # else its maps keep the pages


def test_what_was_read_ahead_counts_as_read(tmp_path: Path, asked: list[int]) -> None:
    path = _store(tmp_path / "a")
    _drop(path)
    array = ShardedArray.open(path)
    before = resource.getrusage(resource.RUSAGE_THREAD).ru_inblock
    array.read_ahead(np.arange(100), 0)
    if resource.getrusage(resource.RUSAGE_THREAD).ru_inblock == before:
        pytest.skip("the folder for temporary files is no disk")
    assert asked == [64, 36]
    assert np.array_equal(array.gather(np.arange(100), 0), VALUES[:100, 0])
    asked.clear()
    array.read_ahead(np.arange(100, 164), 0)
    assert asked == [28, 36], "a disk that has just been read is asked again"


def test_a_first_gather_asks_for_each_row_once(tmp_path: Path, asked: list[int]) -> None:
    array = ShardedArray.open(_store(tmp_path / "a"))
    array.gather(np.array([5, 3, 3, 70, 5]), 0)
    assert asked == [2, 1]


def test_neighbours_are_one_request(tmp_path: Path) -> None:
    class Recorder:
        def __init__(self) -> None:
            self.calls: list[tuple[int, int]] = []

        def madvise(self, option: int, start: int, length: int) -> None:
            self.calls.append((start, length))

    recorder, page = Recorder(), mmap.PAGESIZE
    readahead.ask(recorder, np.array([0, 100, 200, 3 * page + 8, 9 * page]), 100)  # type: ignore[arg-type]
    assert recorder.calls == [(0, 300), (3 * page, 108), (9 * page, 100)]


def test_a_warm_gather_makes_one_copy_a_shard(
    tmp_path: Path, asked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.random.default_rng(1).standard_normal((2000, 1, 16)).astype(np.float32)
    array = ShardedArray.open(_store(tmp_path / "a", values, shards=(500, 1, 16)))
    rows, out = np.arange(0, 2000, 2), np.empty((1000, 16), np.float32)
    array.gather(rows, 0, out)
    array.gather(rows, 0, out)
    calls: list[int] = []
    inner = arrays._Part.take

    def watched(part: Any, rows: NDArray[np.int64], out: NDArray[np.uint8]) -> None:
        calls.append(len(rows))
        inner(part, rows, out)

    monkeypatch.setattr(arrays._Part, "take", watched)
    asked.clear()
    assert np.array_equal(array.gather(rows, 0, out), values[rows, 0])
    assert calls == [250] * 4
    assert not asked


GRIDS = {
    "ours": {},
    "several rows in a chunk": {"chunks": (4, 1, 64, 128)},
    "rows split in chunks": {"chunks": (2, 1, 32, 64)},
    "no shards": {"shards": None, "chunks": (16, 1, 64, 128)},
}


@pytest.mark.parametrize("grid", GRIDS)
def test_every_layout_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, grid: str) -> None:
    """As if the disk were asked each time, whatever is in memory."""
    counter = iter(range(10**9))
    monkeypatch.setattr(readahead, "blocks_read", lambda: next(counter))
    array = ShardedArray.open(_store(tmp_path / "a", **GRIDS[grid]))
    rng = np.random.default_rng(2)
    for rows in (np.arange(ROWS), rng.permutation(ROWS), rng.integers(0, ROWS, 50)):
        for _ in range(2):
            assert np.array_equal(array.gather(rows, 0), VALUES[rows, 0])


def test_what_was_never_written_is_not_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counter = iter(range(10**9))
    monkeypatch.setattr(readahead, "blocks_read", lambda: next(counter))
    array = zarr.create_array(
        tmp_path,
        shape=(40, 1, 8),
        dtype="f4",
        shards=(20, 1, 8),
        chunks=(2, 1, 8),
        compressors=None,
        fill_value=7,
    )
    array[4:9] = (
        1  # row 9 shares a chunk with row 8; most of the first shard and all of the second are not there
    )
    ours, rows = ShardedArray.open(tmp_path), np.arange(40)
    for _ in range(2):
        assert np.array_equal(ours.gather(rows, 0), array[:, 0])


def test_several_threads_at_once(tmp_path: Path) -> None:
    path = _store(tmp_path / "a")
    _drop(path)
    array = ShardedArray.open(path)
    orders = [np.random.default_rng(seed).permutation(ROWS) for seed in range(8)]
    with ThreadPoolExecutor(4) as pool:
        for rows, found in zip(orders, pool.map(lambda rows: array.gather(rows, 0), orders), strict=True):
            assert np.array_equal(found, VALUES[rows, 0])
