"""Rows that are on disk alone are read by many threads, those in memory by one copy for each shard."""

from __future__ import annotations

import multiprocessing
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
from featcache.cache import cold
from featcache.cache.array import ShardedArray
from featcache.errors import CacheError

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
def opened_files(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that are read other than through their maps, as they are."""
    seen: list[Path] = []
    inner = cold._read

    def watched(part: cold.Mapped, rows: NDArray[np.int64], out: NDArray[np.uint8]) -> int:
        seen.append(part.path)
        return inner(part, rows, out)

    monkeypatch.setattr(cold, "_read", watched)
    return seen


@pytest.mark.parametrize("seed", range(3))
def test_rows_from_disk_are_the_rows_from_memory(tmp_path: Path, opened_files: list[Path], seed: int) -> None:
    path, rng = _store(tmp_path / "a"), np.random.default_rng(seed)
    for rows in (np.arange(ROWS), rng.permutation(ROWS), np.sort(rng.integers(0, ROWS, 100))):
        _drop(path)
        array, out = ShardedArray.open(path), np.empty((len(rows), 64, 128), np.float32)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_inblock
        assert np.array_equal(array.gather(rows, 0, out), VALUES[rows, 0])
        if resource.getrusage(resource.RUSAGE_SELF).ru_inblock == before:
            pytest.skip("the folder for temporary files is no disk")
        assert opened_files
        # Nothing comes from disk any more: the next gather may still read, the one after it does not.
        array.gather(rows, 0, out)
        opened_files.clear()
        assert np.array_equal(array.gather(rows, 0, out), VALUES[rows, 0])
        assert not opened_files
        del array  # else its maps keep the pages


def test_a_warm_gather_makes_one_copy_a_shard(
    tmp_path: Path, opened_files: list[Path], monkeypatch: pytest.MonkeyPatch
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
    opened_files.clear()
    assert np.array_equal(array.gather(rows, 0, out), values[rows, 0])
    assert calls == [250] * 4
    assert not opened_files


GRIDS = {
    "ours": {},
    "several rows in a chunk": {"chunks": (4, 1, 64, 128)},
    "rows split in chunks": {"chunks": (2, 1, 32, 64)},
    "no shards": {"shards": None, "chunks": (16, 1, 64, 128)},
}


@pytest.mark.parametrize("grid", GRIDS)
def test_reads_alone_give_every_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, grid: str) -> None:
    """As if the disk were asked each time, whatever is in memory."""
    counter = iter(range(10**9))
    monkeypatch.setattr(cold, "_blocks_read", lambda: next(counter))
    array = ShardedArray.open(_store(tmp_path / "a", **GRIDS[grid]))
    rng = np.random.default_rng(2)
    for rows in (np.arange(ROWS), rng.permutation(ROWS), rng.integers(0, ROWS, 50)):
        for _ in range(2):
            assert np.array_equal(array.gather(rows, 0), VALUES[rows, 0])


def test_reads_alone_fill_what_was_never_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counter = iter(range(10**9))
    monkeypatch.setattr(cold, "_blocks_read", lambda: next(counter))
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


def test_a_shard_that_is_cut_short_while_open_is_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter = iter(range(10**9))
    monkeypatch.setattr(cold, "_blocks_read", lambda: next(counter))
    path = _store(tmp_path / "a")
    array = ShardedArray.open(path)
    array.gather(np.arange(ROWS), 0)
    os.truncate(path / "c" / "1" / "0" / "0" / "0", 1000)
    with pytest.raises(CacheError, match=r"is damaged[\s\S]*1,000 bytes"):
        array.gather(np.arange(64, 128), 0)
    assert np.array_equal(array.gather(np.arange(64), 0), VALUES[:64, 0])


def test_several_threads_at_once(tmp_path: Path) -> None:
    path = _store(tmp_path / "a")
    _drop(path)
    array = ShardedArray.open(path)
    orders = [np.random.default_rng(seed).permutation(ROWS) for seed in range(8)]
    with ThreadPoolExecutor(4) as pool:
        for rows, found in zip(orders, pool.map(lambda rows: array.gather(rows, 0), orders), strict=True):
            assert np.array_equal(found, VALUES[rows, 0])


def _in_child(path: Path) -> None:
    _drop(path)
    array = ShardedArray.open(path)
    array._cold = True
    assert np.array_equal(array.gather(np.arange(ROWS), 0), VALUES[:, 0])


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_process_reads_by_threads_of_its_own(tmp_path: Path) -> None:
    path = _store(tmp_path / "a")
    _in_child(path)
    child = multiprocessing.get_context("fork").Process(target=_in_child, args=(path,))
    child.start()
    child.join(60)
    try:
        assert child.exitcode == 0
    finally:
        child.kill()
