"""Descriptions that an enemy wrote: refused at once, sealed or not; nothing leaves the folder."""

from __future__ import annotations

import copy
import json
import random
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from featcache.api.cache import Cache
from featcache.cache.ledger import Entry
from featcache.cache.reader import CacheReader
from featcache.cache.repair import restore_metadata
from featcache.cache.storage import storage_at
from featcache.config import ConfigError
from featcache.errors import CacheError, FeatcacheError
from featcache.stages.info import describe, info

Reseal = Callable[[str], bytes]
SEED, MUTATIONS = 14, 8


@pytest.fixture(scope="module")
def kept(make_cache: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small whole cache, which no test changes."""
    return make_cache(tmp_path_factory.mktemp("kept") / "c.zarr", text=True, weak=1)


@pytest.fixture
def cache(kept: Path, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    return Path(shutil.copytree(kept, tmp_path / "c.zarr"))


def _put(tree: Any, keys: tuple[Any, ...], value: Any) -> None:
    for key in keys[:-1]:
        tree = tree[key]
    tree[keys[-1]] = value


def _rewritten(file: Path, keys: tuple[Any, ...], value: Any, seal: Reseal | None) -> None:
    tree = json.loads(file.read_text())
    _put(tree, keys, value)
    if seal is None:
        tree.get("attributes", tree).pop("seal", None)
    text = json.dumps(tree)
    file.write_bytes(text.encode() if seal is None else seal(text))


def _used(place: Path) -> None:
    """What `info` does, and the first rows of every array."""
    describe(info(place))
    opened = Cache.open(place)
    for name in opened.splits:
        split = opened[name]
        assert len(split.ids) == split.rows
        assert len(split.labels) == split.rows
    reader = CacheReader.open(place)
    for name in reader.split_names:
        part = reader.split(name)
        for array in part.arrays:
            part.array(array, checked=False)


def test_the_whole_cache_is_used(cache: Path) -> None:
    _used(cache)


ABOUT = ("attributes", "featcache")
HOSTILE = [
    ("train/zarr.json", (*ABOUT, "split", "rows"), 10**12),
    ("train/zarr.json", (*ABOUT, "split", "rows"), 10**9),
    ("train/zarr.json", (*ABOUT, "split", "rows"), -1),
    ("train/zarr.json", (*ABOUT, "split", "rows"), 1.5),
    ("train/zarr.json", (*ABOUT, "split", "rows"), None),
    ("train/zarr.json", (*ABOUT, "split"), "all"),
    ("train/zarr.json", (*ABOUT, "arrays"), ["../x"]),
    ("train/zarr.json", (*ABOUT, "arrays"), None),
    ("zarr.json", (*ABOUT, "spec", "views", "weak"), 10**8),
    ("zarr.json", (*ABOUT, "spec", "layers"), []),
    ("zarr.json", (*ABOUT, "shapes", "layers"), []),
    ("zarr.json", (*ABOUT, "shapes", "pooled"), -8),
    ("zarr.json", (*ABOUT, "shapes", "layers", 0, "tokens"), 10**15),
    ("zarr.json", (*ABOUT, "format"), "3"),
    ("zarr.json", (*ABOUT, "format"), [3]),
    ("zarr.json", (*ABOUT, "provenance"), None),
    ("zarr.json", (*ABOUT, "provenance", "versions"), ["a"]),
    ("labels/zarr.json", (*ABOUT, "table"), "../../x"),
    ("labels/zarr.json", (*ABOUT, "splits"), ["../../x"]),
    ("labels/zarr.json", (*ABOUT, "splits"), [".."]),
    ("labels/zarr.json", (*ABOUT, "class_names"), {"a": 1}),
    ("class_text/zarr.json", (*ABOUT, "class_names"), 5),
    ("class_text/zarr.json", (*ABOUT, "class_names"), ["owl", "cat", "dog", "emu"]),
    ("class_text/zarr.json", (*ABOUT, "files", "embedding/c/0/0", "bytes"), -1),
    ("class_text/embedding/zarr.json", ("shape",), [10**12, 8]),
    ("train/sample_id/zarr.json", ("shape",), [10**12]),
    ("train/sample_id/zarr.json", ("chunk_grid", "configuration", "chunk_shape"), [0]),
    ("train/sample_id/zarr.json", ("codecs",), None),
    ("train/status/zarr.json", ("shape",), [10**12, 2]),
    ("train/status/zarr.json", ("chunk_grid", "configuration", "chunk_shape"), [0, 1]),
    ("train/status/zarr.json", ("chunk_grid", "configuration", "chunk_shape"), [16.0, 1]),
    ("train/status/zarr.json", ("chunk_grid", "configuration", "chunk_shape"), [-16, 1]),
    ("train/pooled/zarr.json", ("shape",), [30, 2, 10**15]),
    ("train/pooled/zarr.json", ("shape",), [30, 2, "8"]),
    ("train/pooled/zarr.json", ("chunk_grid",), None),
    ("train/pooled/zarr.json", ("codecs", 0, "configuration", "chunk_shape"), [0, 1, 8]),
    ("train/pooled/zarr.json", ("codecs",), []),
    ("train/pooled/zarr.json", ("fill_value",), {}),
    ("train/pooled/zarr.json", ("fill_value",), "0x" + "f" * 40),
]


@pytest.mark.parametrize("sealed", [True, False], ids=["sealed", "unsealed"])
@pytest.mark.parametrize(("file", "keys", "value"), HOSTILE)
def test_a_hostile_value_is_refused_at_once(
    cache: Path, reseal: Reseal, file: str, keys: tuple[Any, ...], value: Any, sealed: bool
) -> None:
    _rewritten(cache / file, keys, value, reseal if sealed else None)
    start = time.perf_counter()
    with pytest.raises(CacheError):
        _used(cache)
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize("key", ["../x", "/etc/x", "a/../../x", "a//b", "", ".", "a\\..\\x", "a\0b"])
def test_the_keys_of_a_ledger_stay_within_the_cache(key: str) -> None:
    Entry(rows=1, failed={}, files={"pooled/c/0/0/0": {"bytes": 1, "crc32c": 2}})
    with pytest.raises(ConfigError):
        Entry(rows=1, failed={}, files={key: {"bytes": 1, "crc32c": 2}})
    with pytest.raises(ConfigError):
        Entry(rows=1, failed={}, files={}, copies={f"{key}/zarr.json": "{}"})


@pytest.mark.parametrize("key", ["../zarr.json", "../../evil/zarr.json", "train/pooled/c/0/0/0"])
def test_repair_writes_nothing_but_descriptions_in_the_cache(cache: Path, reseal: Reseal, key: str) -> None:
    before = set(cache.parent.rglob("*"))
    _rewritten(cache / "train/status/ledger/rows.json", ("copies", key), "evil", reseal)
    restore_metadata(storage_at(cache))
    assert set(cache.parent.rglob("*")) == before
    others = (path for path in before if path.is_file() and path.name != "rows.json")
    assert all(b"evil" not in path.read_bytes() for path in others)


DEEP = {
    "deep": b"[" * 100_000,
    "deep object": b'{"a":' * 100_000,
    "not UTF-8": b'{"a": "\xff"}',
    "empty": b"",
}
ARRAYS = ("train/pooled/zarr.json", "train/sample_id/zarr.json")


@pytest.mark.parametrize("text", DEEP.values(), ids=DEEP)
@pytest.mark.parametrize("file", ["zarr.json", "train/zarr.json", "labels/zarr.json", *ARRAYS])
def test_a_description_that_is_not_json_is_no_traceback(cache: Path, file: str, text: bytes) -> None:
    (cache / file).write_bytes(text)
    if file in ("zarr.json", *ARRAYS):
        with pytest.raises(FeatcacheError):
            _used(cache)
    else:
        _used_or_refused(cache)


def _used_or_refused(place: Path) -> bool:
    try:
        _used(place)
    except FeatcacheError:
        return True
    return False


VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 1.5, 10**12, 2**70, "", "x", "../x", "\x1b[31m", [], [0], [-1], [[]], {}, {"a": 1},
)  # fmt: skip


def _places(tree: Any, keys: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield (*keys, key)
        yield from _places(value, (*keys, key))


def _mutated(tree: Any, rng: random.Random) -> Any:
    """One value replaced, removed or doubled, but never the seal."""
    tree = copy.deepcopy(tree)
    keys = rng.choice([keys for keys in _places(tree) if keys[-1] != "seal"])
    parent = tree
    for key in keys[:-1]:
        parent = parent[key]
    how = rng.randrange(4)
    if how == 0:
        del parent[keys[-1]]
    elif how == 1 and isinstance(parent, list):
        parent.append(copy.deepcopy(parent[keys[-1]]))
    elif how == 1:
        parent["other"] = parent.pop(keys[-1])
    else:
        parent[keys[-1]] = rng.choice(VALUES)
    return tree


def _unseal(cache: Path) -> None:
    """Make it a cache of format 2, which had no seals."""
    for file in cache.rglob("*.json"):
        tree = json.loads(file.read_text())
        tree.get("attributes", tree).pop("seal", None)
        if file == cache / "zarr.json":
            tree["attributes"]["featcache"]["format"] = 2
        file.write_text(json.dumps(tree))


@pytest.mark.parametrize("sealed", [True, False], ids=["sealed", "unsealed"])
def test_no_mutation_of_any_json_file_is_a_traceback_or_slow(
    cache: Path, reseal: Reseal, sealed: bool
) -> None:
    if not sealed:
        _unseal(cache)
    rng, refused, tried = random.Random(SEED), 0, 0
    start = time.perf_counter()
    for file in sorted(cache.rglob("*.json")):
        whole = file.read_bytes()
        tree = json.loads(whole)
        for _ in range(MUTATIONS):
            text = json.dumps(_mutated(tree, rng))
            file.write_bytes(reseal(text) if "crc32c:" in text else text.encode())
            refused, tried = refused + _used_or_refused(cache), tried + 1
        file.write_bytes(whole)
    _used(cache)
    assert tried > 80
    assert refused > tried // 4
    assert time.perf_counter() - start < 120
