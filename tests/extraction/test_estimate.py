"""What an extraction will cost, told before it starts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from featcache import encoders
from featcache.cache.spec import Shapes, TokenArray, ViewSpec
from featcache.encoders.views import ViewTransform
from featcache.errors import CacheError
from featcache.extraction.estimate import cache_bytes, human_bytes, pilot, pilot_batches, require_room
from featcache.extraction.feed import ViewDataset
from featcache.extraction.forward import Forward
from featcache.sources import open_source

pytestmark = pytest.mark.usefixtures("one_thread")

Model = Callable[[str], str]
SHAPES = Shapes(
    layers=(TokenArray(layer=-1, tokens=5, dim=8), TokenArray(layer=-2, tokens=5, dim=6)), pooled=7, mask=True
)


@pytest.mark.parametrize(("dtype", "value"), [("float16", 2), ("bfloat16", 2), ("float32", 4)])
def test_bytes_are_those_of_the_arrays(dtype: str, value: int) -> None:
    row = (5 * 8 + 5 * 6 + 7) * value + 5 + 1
    assert cache_bytes(SHAPES, 10, 3, dtype) == 10 * (3 * row + 8)  # type: ignore[arg-type]


def test_bytes_of_int8_are_those_of_tokens_scales_and_pooled() -> None:
    row = 5 * (8 + 4) + 5 * (6 + 4) + 7 * 2 + 5 + 1
    assert cache_bytes(SHAPES, 10, 3, "int8") == 10 * (3 * row + 8)


def test_the_pilot_is_the_first_batches_of_the_split() -> None:
    assert pilot_batches(100, 3, 8) == [range(2), range(2, 4), range(4, 6)]
    assert pilot_batches(3, 3, 8) == [range(2), range(2, 3)]
    assert pilot_batches(5, 3, 2) == [range(1), range(1, 2), range(2, 3)]


@pytest.mark.parametrize(("factory", "least"), [("slow", 0.005), ("slow_pixels", 0.04)])
def test_seconds_count_the_slower_of_reading_and_forward_pass(
    photos: Path, frozen: Model, factory: str, least: float
) -> None:
    encoder, views = encoders.load(frozen(factory)), ViewSpec()
    dataset = ViewDataset(
        open_source(str(photos))["train"],
        ViewTransform(encoder.transform, "image", views),
        views.names(),
        pilot_batches(10, 1, 4),
    )
    forward = Forward(encoder, (-1,), "all", "float32", torch.device("cpu"))
    alone, shared = (pilot(dataset, forward, forward.device, workers) for workers in (0, 4))
    assert alone >= least
    if factory == "slow_pixels":  # 40 ms a view, by four workers side by side
        assert shared < alone / 2
    else:
        assert shared >= least


def test_a_disk_that_is_too_small_is_refused(tmp_path: Path) -> None:
    require_room(tmp_path / "a" / "b.zarr", 1)
    with pytest.raises(CacheError) as error:
        require_room(tmp_path / "a" / "b.zarr", 10**18)
    lines = str(error.value).splitlines()
    assert lines[0] == f"the disk cannot hold the cache {tmp_path / 'a' / 'b.zarr'}"
    assert lines[1].endswith("free")
    assert lines[2] == "  expected: 1000000.0 TB"
    assert "--limit" in lines[3]
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1e3, "1.0 kB"), (2.5e9, "2.5 GB"), (3e12, "3.0 TB")]
)
def test_bytes_in_words(count: float, text: str) -> None:
    assert human_bytes(count) == text
