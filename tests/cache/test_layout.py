"""The arithmetic of units, shards and chunks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from featcache.cache import layout
from featcache.cache.codec import first_not_finite, from_bfloat16, to_storage
from featcache.cache.spec import LayoutSpec
from featcache.errors import CacheError, ConfigError
from featcache.specs import ViewSpec

counts = st.integers(1, 200)


@settings(deadline=None)
@given(rows=counts, views=st.integers(1, 4), block=counts)
def test_units_cover_every_row_of_every_view_once(rows: int, views: int, block: int) -> None:
    found = list(layout.units(rows, views, block))
    covered = [(row, unit.view) for unit in found for row in range(unit.start, unit.stop)]
    assert sorted(covered) == [(row, view) for row in range(rows) for view in range(views)]
    assert all(unit.start == unit.block * block for unit in found)
    assert [(unit.block, unit.view) for unit in found] == sorted((unit.block, unit.view) for unit in found)


@settings(deadline=None)
@given(block=st.integers(1, 5000), row_bytes=st.integers(1, 1 << 20))
def test_chunks_divide_the_block_and_are_no_smaller_than_need_be(block: int, row_bytes: int) -> None:
    rows = layout.chunk_rows(block, row_bytes)
    assert block % rows == 0
    assert rows == block or rows * row_bytes >= layout.MIN_CHUNK_BYTES
    smaller = [size for size in range(1, rows) if block % size == 0]
    assert all(size * row_bytes < layout.MIN_CHUNK_BYTES for size in smaller)


@settings(deadline=None)
@given(megabytes=st.integers(1, 4000), row_bytes=st.integers(1, 1 << 27))
def test_a_shard_stays_within_its_bytes(megabytes: int, row_bytes: int) -> None:
    rows = layout.block_rows(f"{megabytes}MB", row_bytes)
    assert rows == 1 or rows * row_bytes <= megabytes * 10**6
    assert 1 <= rows <= layout.MAX_BLOCK_ROWS


@pytest.mark.parametrize(
    ("size", "rows"),
    [
        ("64KB", 64),
        ("64KiB", 64),
        ("1MiB", 1024),
        ("1GB", 4096),
        ("5000", 5000),
        ("900B", 1),
        (" 2 MB ", 1984),
    ],
)
def test_sizes_as_people_write_them(size: str, rows: int) -> None:
    assert LayoutSpec(shard_size=size).block_rows(1000) == rows


@pytest.mark.parametrize("size", ["", "0", "0MB", "-5", "1.5GB", "12 rows", "MB"])
def test_other_sizes_are_refused(size: str) -> None:
    with pytest.raises(ConfigError, match="64MB"):
        LayoutSpec(shard_size=size)


def test_view_names_follow_the_view_axis() -> None:
    assert ViewSpec().names() == ("eval",)
    assert ViewSpec(weak=2, strong=1).names() == ("eval", "weak0", "weak1", "strong0")


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"codecs": [{"name": "bytes", "configuration": {"endian": "big"}}]}, "big-endian"),
        ({"codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "zstd"}]}, "zstd"),
        ({"codecs": [{"name": "transpose"}, {"name": "bytes"}]}, "transpose"),
        ({"data_type": "string"}, "string"),
        ({"zarr_format": 2}, "zarr_format 2"),
        ({"chunk_grid": {"name": "rectangular"}}, "rectangular"),
        ({"shape": [3]}, "1 axes"),
    ],
)
def test_what_cannot_be_read_is_named(change: dict[str, object], found: str) -> None:
    plain = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [3, 2],
        "data_type": "float32",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [2, 1]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0.0,
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
    }
    assert layout.parse_array(plain, "here").key((1, 0)) == "c/1/0"
    with pytest.raises(CacheError, match="here") as error:
        layout.parse_array(plain | change, "here")
    assert found in str(error.value.got)


@settings(deadline=None)
@given(st.lists(st.floats(width=32), min_size=1, max_size=40))
def test_bfloat16_rounds_as_torch_does(numbers: list[float]) -> None:
    values = np.array(numbers, np.float32)
    bits = to_storage(values, "bfloat16")
    expected = torch.from_numpy(values).to(torch.bfloat16)
    assert np.array_equal(from_bfloat16(bits), expected.float().numpy(), equal_nan=True)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@settings(deadline=None)
@given(st.lists(st.floats(width=32), min_size=1, max_size=40))
def test_the_first_not_finite_value_is_found(dtype: str, numbers: list[float]) -> None:
    stored = to_storage(np.array(numbers, np.float32), dtype)
    finite = np.isfinite(from_bfloat16(stored) if dtype == "bfloat16" else stored)
    assert first_not_finite(stored, dtype) == (None if finite.all() else int(np.argmin(finite)))
