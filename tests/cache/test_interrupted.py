"""Killed anywhere, damaged anyhow: the rerun ends with every byte equal to an uninterrupted run."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from featcache.cache import ledger
from featcache.cache.array import ShardedArray
from featcache.cache.reader import CacheReader
from featcache.cache.storage import Folder
from featcache.errors import CacheError

SHARD = "train/tokens/c/1/2/0/0"
Start = Callable[..., "subprocess.Popen[str]"]


def _tree(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def _copy(whole: Path, tmp_path: Path) -> Path:
    path = tmp_path / "c.zarr"
    for name, data in _tree(whole).items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def test_killed_at_any_step_the_rerun_ends_byte_identical(
    tmp_path: Path, whole: Path, synthetic: ModuleType, start: Start
) -> None:
    # While the group is made; while the split is written, named, and completed by its zarr.json; while the
    # class texts are written; while units are written, named and entered; and later.
    events = [2, 7, 22, 31, 40, 59, 80, 90, 110, 140, 165, 191, 250, 300, 350, 420]
    program = start(tmp_path / "c.zarr", "--kill-at", *events)
    out, errors = program.communicate(timeout=120)
    assert (program.returncode, errors) == (0, "")
    assert [line.split() for line in out.splitlines()] == [[str(event), "-9"] for event in events]
    begun, finished = 0, _tree(whole)
    for event in events:
        path = tmp_path / f"c-{event}.zarr"
        left = _tree(path)
        begun += 0 < len(left) < len(finished)
        for entry in (path / "train" / "status" / "ledger").glob("*.json"):
            committed = ledger.Entry.model_validate_json(entry.read_bytes())
            assert ledger.damage(Folder(path / "train"), committed) is None, (
                "entered before its files were in place"
            )
        synthetic.write(path)
        assert _tree(path) == finished, event
    assert begun > len(events) // 2


def test_a_split_without_its_group_is_created_anew(
    tmp_path: Path, whole: Path, synthetic: ModuleType
) -> None:
    path = _copy(whole, tmp_path)
    (path / "train" / "zarr.json").unlink()
    shard = path / SHARD
    shard.write_bytes(bytes(len(shard.read_bytes())))  # of the size that the ledger left behind gives
    (path / "train" / "more" / "c").mkdir(parents=True)
    (path / "train" / "more" / "c" / "0").write_bytes(b"old")
    cache = CacheReader.open(path)
    assert (cache.described, cache.undescribed) == ((), ("train",))
    for read in (lambda: cache.split_names, lambda: cache.split("train")):
        with pytest.raises(CacheError, match="`train`"):
            read()
    synthetic.write(path)
    assert _tree(path) == _tree(whole)


@pytest.mark.parametrize("overwrite", [False, True])
def test_unfinished_folders_of_earlier_versions_are_no_splits_and_are_removed(
    tmp_path: Path, whole: Path, synthetic: ModuleType, overwrite: bool
) -> None:
    path = _copy(whole, tmp_path)
    shutil.move(path / "train", path / "train.partial")
    shutil.copytree(path / "train.partial", path / "class_text.partial")
    shutil.rmtree(path / "class_text")
    assert CacheReader.open(path).split_names == ()
    synthetic.write(path, overwrite=overwrite)
    assert _tree(path) == _tree(whole)
    assert not list(path.rglob("*.partial"))


def test_killed_again_and_again_at_random_moments(
    tmp_path: Path, whole: Path, synthetic: ModuleType, start: Start
) -> None:
    path, moments = tmp_path / "c.zarr", random.Random(0)
    for committed in (1, 3, 5):
        program = start(path, "--pause", 0.02)
        while len(list(path.glob("train/status/ledger/?.?.json"))) < committed:
            assert program.poll() is None, program.communicate()
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.05))
        program.kill()
        program.communicate()
        assert program.returncode == -signal.SIGKILL
    assert not CacheReader.open(path).split("train").complete()
    synthetic.write(path)
    assert _tree(path) == _tree(whole)
    assert not path.with_name("c.zarr.lock").exists()


@pytest.mark.parametrize("name", [SHARD, "train/pooled/c/0/0/0", "train/status/c/2/1"])
@pytest.mark.parametrize("left", [None, 0, 5])
def test_a_missing_or_truncated_file_is_named_and_healed(
    tmp_path: Path, whole: Path, synthetic: ModuleType, name: str, left: int | None
) -> None:
    path = _copy(whole, tmp_path)
    if left is None:
        (path / name).unlink()
    else:
        (path / name).write_bytes((whole / name).read_bytes()[:left])
    split = CacheReader.open(path).split("train")
    assert not split.complete()
    with pytest.raises(CacheError) as error:
        split.check()
    message = str(error.value)
    assert str(path / name) in message
    assert ("no such file" if left is None else f"{left} bytes") in message
    assert f"{(whole / name).stat().st_size:,} bytes" in message
    assert "featcache extract" in message
    synthetic.write(path)
    assert _tree(path) == _tree(whole)


@pytest.mark.parametrize("name", ["train/sample_id/c/0", "train/status/ledger/rows.json"])
def test_lost_ids_are_restored(tmp_path: Path, whole: Path, synthetic: ModuleType, name: str) -> None:
    path = _copy(whole, tmp_path)
    (path / name).unlink()
    with pytest.raises(CacheError, match="train"):
        CacheReader.open(path).split("train").check()
    synthetic.write(path)
    assert _tree(path) == _tree(whole)


@pytest.mark.parametrize("pattern", ["labels/*/train/c/0", "labels/*/train/zarr.json", "labels/zarr.json"])
def test_lost_labels_are_noticed_and_restored(
    tmp_path: Path, whole: Path, synthetic: ModuleType, pattern: str
) -> None:
    path = _copy(whole, tmp_path)
    (lost,) = path.glob(pattern)
    lost.unlink()
    if lost.parent.name == "labels":
        assert CacheReader.open(path).labels.by_split == {}
    else:
        with pytest.raises(CacheError, match=r"labels .* damaged"):
            _ = CacheReader.open(path).split("train").labels
    synthetic.write(path)
    assert _tree(path) == _tree(whole)


@pytest.mark.parametrize("keep", [None, 0, 5, 100, -1])
def test_reading_a_damaged_shard_names_it(tmp_path: Path, whole: Path, keep: int | None) -> None:
    path = _copy(whole, tmp_path)
    data = (path / SHARD).read_bytes()
    if keep is None:
        (path / SHARD).unlink()
    else:
        (path / SHARD).write_bytes(data[:keep])
    array = CacheReader.open(path).split("train").array("tokens")
    assert array.gather(np.arange(6), 2).any()
    with pytest.raises(CacheError, match="damaged") as error:
        array.gather(np.arange(14), 2)
    assert str(path / SHARD) in str(error.value)
    assert "featcache extract" in str(error.value)


def test_a_flipped_bit_in_the_index_is_found(tmp_path: Path, whole: Path) -> None:
    path = _copy(whole, tmp_path)
    data = bytearray((path / SHARD).read_bytes())
    data[-10] ^= 1
    (path / SHARD).write_bytes(data)
    with pytest.raises(CacheError, match="crc32c"):
        CacheReader.open(path).split("train").array("tokens").gather(np.array([7]), 2)


def test_an_index_that_points_outside_is_found(tmp_path: Path, whole: Path) -> None:
    import google_crc32c

    path = _copy(whole, tmp_path)
    index = np.array([2**40, 960], "<u8").tobytes()
    body = (path / SHARD).read_bytes()[: -len(index) - 4]
    (path / SHARD).write_bytes(body + index + google_crc32c.value(index).to_bytes(4, "little"))
    with pytest.raises(CacheError, match=r"960 bytes at 1,099,511,627,776"):
        ShardedArray.open(path / "train" / "tokens").gather(np.array([7]), 2)
