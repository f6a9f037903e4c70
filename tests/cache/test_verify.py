"""Bit flips and other damage, in every kind of file: found by `verify_cache`, refused by whoever reads."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featcache.cache.reader import CacheReader, sample_digests
from featcache.cache.storage import Folder
from featcache.cache.verify import Verification, verify_cache
from featcache.errors import CacheError

FLIPS = 3
"""In every file of the cache."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, make_cache: Callable[..., Path]) -> Path:
    """A cache with every kind of array; not to be changed."""
    options: dict[str, Any] = {"weak": 1, "dtype": "int8", "mask": True, "text": True, "digests": True}
    options |= {"splits": {"train": [row % 3 for row in range(20)]}}
    return make_cache(tmp_path_factory.mktemp("whole") / "c.zarr", failed={"train": [3]}, **options)


def _files(path: Path) -> list[str]:
    return sorted(str(f.relative_to(path)) for f in path.rglob("*") if f.is_file())


def _verify(path: Path, *, quick: bool = False) -> Verification:
    return verify_cache(Folder(path), quick=quick)


def _read(path: Path) -> list[object]:
    """Everything that a use of the cache depends on."""
    cache = CacheReader.open(path)
    found: list[object] = [cache.spec, cache.shapes, cache.labels.digest(), cache.split_names]
    found.append(cache.text_of(cache.class_names))
    for name in cache.split_names:
        split = cache.split(name)
        split.check()
        found += [split.spec, split.ids, sample_digests(split), split.status, split.failures()]
        for array in split.arrays:
            opened = split.array(array)
            for view in range(len(split.views)):
                found.append(opened.gather(np.arange(split.rows), view))
            opened.finish_checks()
    return found


def _same(one: list[object], other: list[object]) -> bool:
    return len(one) == len(other) and all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def _or_refused(call: Callable[[Path], Any], path: Path) -> Any:
    """What a call returns; None if it refuses the cache and says where it is damaged."""
    try:
        return call(path)
    except CacheError as error:
        if str(path) not in str(error):
            raise
        return None


@pytest.fixture
def damaged(whole: Path, tmp_path: Path) -> Callable[[str, bytes], Path]:
    """Copies the cache, and puts other bytes into one file."""

    def damage(name: str, data: bytes) -> Path:
        path = tmp_path / "c.zarr"
        if not path.exists():
            shutil.copytree(whole, path)
        (path / name).write_bytes(data)
        return path

    return damage


def _flipped(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def test_a_whole_cache_is_whole(whole: Path) -> None:
    for quick in (False, True):
        found = _verify(whole, quick=quick)
        assert found.whole
        assert found.unknown == []
        assert set(found.files.values()) == {"whole"}
    shards = sum((whole / name).stat().st_size for name in _files(whole) if "/c/" in name)
    assert 0 < _verify(whole).nbytes <= shards


def test_every_flip_is_found_and_none_changes_what_is_read(
    whole: Path, damaged: Callable[[str, bytes], Path]
) -> None:
    rng, right = random.Random(14), _read(whole)
    for name in _files(whole):
        before = (whole / name).read_bytes()
        for _ in range(FLIPS):
            path = damaged(name, _flipped(before, rng))
            if (found := _or_refused(_verify, path)) is not None:
                assert not found.whole, name
                assert any(name.startswith(damage.file) for damage in found.damages), name
            read = _or_refused(_read, path)
            assert read is None or _same(read, right), name
            damaged(name, before)


@pytest.mark.parametrize("kind", ["deleted", "empty", "truncated", "zeros"])
def test_other_damage_is_found(whole: Path, damaged: Callable[[str, bytes], Path], kind: str) -> None:
    right = _read(whole)
    for name in _files(whole):
        before = (whole / name).read_bytes()
        left = {"empty": b"", "truncated": before[: len(before) // 2], "zeros": bytes(len(before))}
        path = damaged(name, left.get(kind, before))
        if kind == "deleted":
            (path / name).unlink()
        if name.endswith("/zarr.json") and name.count("/") == 1 and kind in ("deleted", "empty", "zeros"):
            damaged(name, before)
            continue  # without its description, a group cannot be told from one that never was
        found, read = _or_refused(_verify, path), _or_refused(_read, path)
        assert found is None or not found.whole, name
        assert read is None or _same(read, right), name
        damaged(name, before)


def test_quick_looks_at_everything_but_the_content_of_shards(
    whole: Path, damaged: Callable[[str, bytes], Path]
) -> None:
    shard = "train/tokens/c/0/0/0/0"
    data = bytearray((whole / shard).read_bytes())
    data[0] ^= 1
    path = damaged(shard, bytes(data))
    assert _verify(path, quick=True).whole
    assert [damage.file for damage in _verify(path).damages] == [shard]
    data[-1] ^= 1
    assert not _verify(damaged(shard, bytes(data)), quick=True).whole
    assert not _verify(damaged(shard, bytes(data[:-1])), quick=True).whole


def test_shards_in_the_place_of_others_are_found(whole: Path, damaged: Callable[[str, bytes], Path]) -> None:
    one, other = "train/pooled/c/0/0/0", "train/pooled/c/0/1/0"
    path = damaged(one, (whole / other).read_bytes())
    assert [damage.file for damage in _verify(path).damages] == [one]
    assert "rows 0 to 15 of the view eval" in str(_verify(path).damages[0].rows)
    array = CacheReader.open(path).split("train").array("pooled")
    array.gather(np.arange(5), 0)
    with pytest.raises(CacheError, match="rows 0 to 15"):
        array.finish_checks()
    with pytest.raises(CacheError, match=one):
        array.gather(np.arange(5), 0)


def test_a_shard_is_checked_once_and_only_if_it_is_read(
    whole: Path, damaged: Callable[[str, bytes], Path]
) -> None:
    shard = "train/pooled/c/1/0/0"
    path = damaged(shard, bytes((whole / shard).stat().st_size - 20) + (whole / shard).read_bytes()[-20:])
    array = CacheReader.open(path).split("train").array("pooled")
    array.gather(np.arange(16), 0)
    array.finish_checks()
    unchecked = CacheReader.open(path).split("train").array("pooled", checked=False)
    unchecked.gather(np.arange(20), 0)
    unchecked.finish_checks()
    array.gather(np.arange(20), 0)
    with pytest.raises(CacheError, match="damaged"):
        array.finish_checks()


def test_a_shard_that_is_written_to_after_its_check_is_checked_again(
    whole: Path, damaged: Callable[[str, bytes], Path]
) -> None:
    shard = "train/pooled/c/0/0/0"
    path = damaged(shard, (whole / shard).read_bytes())
    array = CacheReader.open(path).split("train").array("pooled")
    before = array.gather(np.arange(16), 0)
    array.finish_checks()
    os.utime(path / shard, (7, 7))
    array.finish_checks()  # the bytes are the same
    (path / "new").write_bytes(bytes((whole / shard).stat().st_size))
    os.replace(path / "new", path / shard)
    assert (array.gather(np.arange(16), 0) == before).all()
    array.finish_checks()  # another file, which is not read from
    other = CacheReader.open(damaged(shard, (whole / shard).read_bytes())).split("train").array("pooled")
    other.gather(np.arange(16), 0)
    other.finish_checks()
    with open(path / shard, "r+b") as file:
        file.write(bytes(64))
    with pytest.raises(CacheError, match=shard):
        other.finish_checks()


def test_an_unfinished_cache_is_not_whole(tmp_path: Path, make_cache: Callable[..., Path]) -> None:
    found = _verify(make_cache(tmp_path / "c.zarr", unwritten=1))
    assert not found.whole
    assert found.unwritten == 2
    assert not found.damages


def test_there_must_be_a_cache(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="no featcache cache"):
        _verify(tmp_path)


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    """The thread that checks ends by itself."""
    import threading
    import time

    yield
    end = time.monotonic() + 5
    while any(thread.name == "featcache-checks" for thread in threading.enumerate()):
        assert time.monotonic() < end
        time.sleep(0.01)
