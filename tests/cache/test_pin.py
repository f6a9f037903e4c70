"""A reader holds on to the cache that it opened: never a mixture of two."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from featcache.cache.array import ShardedArray
from featcache.cache.labels import LabelTable
from featcache.cache.reader import CacheReader
from featcache.cache.writer import CacheWriter
from featcache.errors import CacheError

Change = Callable[[Path, ModuleType], object]


@pytest.fixture
def path(tmp_path: Path, synthetic: ModuleType) -> Path:
    """A cache of three blocks and three views."""
    synthetic.write(tmp_path / "c.zarr")
    return tmp_path / "c.zarr"


def _overwritten(path: Path, synthetic: ModuleType) -> None:
    synthetic.write(path, overwrite=True)


def _written_again(path: Path, synthetic: ModuleType) -> None:
    shutil.rmtree(path)
    synthetic.write(path)


def _deleted(path: Path, synthetic: ModuleType) -> None:
    shutil.rmtree(path)


@pytest.mark.parametrize("change", [_overwritten, _written_again, _deleted])
@pytest.mark.parametrize("through", [lambda found: found, lambda found: pickle.loads(pickle.dumps(found))])
def test_another_cache_in_the_place_is_an_error(
    path: Path, synthetic: ModuleType, change: Change, through: Callable[[Any], Any]
) -> None:
    cache = CacheReader.open(path)
    split = cache.split("train")
    array = split.array("tokens")
    first = array.gather(np.arange(6), 0).copy()
    change(path, synthetic)
    assert (array.gather(np.arange(6), 0) == first).all(), "a mapped shard stays what it was"
    reads: list[Callable[[], object]] = [
        lambda: array.gather(np.arange(14), 0),
        lambda: array.gather(np.arange(6), 1),
        lambda: through(split).array("pooled").gather(np.arange(6), 0),
        lambda: cache.split("train"),
        lambda: cache.labels,
        lambda: split.ids,
        lambda: split.check(),
    ]
    for read in reads:
        with pytest.raises(CacheError, match=r"c\.zarr was replaced"):
            read()


def test_what_a_user_does_with_labels_and_what_a_repair_does_disturbs_no_reader(
    path: Path, synthetic: ModuleType
) -> None:
    cache = CacheReader.open(path)
    array = cache.split("train").array("tokens")
    with CacheWriter(path, synthetic.spec()) as writer:
        writer.label(LabelTable(("a", "b"), {"train": np.arange(14) % 2}))
    (path / "train" / "tokens" / "c" / "1" / "0" / "0" / "0").unlink()
    synthetic.write(path)
    assert array.gather(np.arange(14), 0).any()
    assert cache.labels.class_names == synthetic.CLASSES


def test_an_array_on_its_own_is_not_pinned(path: Path, synthetic: ModuleType) -> None:
    array = ShardedArray.open(path / "train" / "tokens")
    _overwritten(path, synthetic)
    assert array.gather(np.arange(14), 0).any()
