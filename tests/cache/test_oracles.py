"""zarr-python, tensorstore, xarray and dask read what featcache writes, and featcache what they write."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import tensorstore
import xarray
import zarr
from numpy.typing import NDArray

from featcache.cache.array import ShardedArray
from featcache.cache.codec import from_bfloat16
from featcache.cache.interop import to_dask, to_xarray
from featcache.cache.reader import CacheReader, SplitReader
from featcache.errors import CacheError

ARRAYS = ("tokens", "tokens_layer-2", "pooled", "token_mask")
DTYPES = ("float16", "bfloat16", "float32")


@pytest.fixture(scope="module", params=DTYPES)
def split(
    request: pytest.FixtureRequest, synthetic: ModuleType, tmp_path_factory: pytest.TempPathFactory
) -> SplitReader:
    """A complete split of one value type."""
    path = tmp_path_factory.mktemp("oracle") / "c.zarr"
    synthetic.write(path, cache=synthetic.spec(dtype=request.param))
    return CacheReader.open(path).split("train")


def _ours(split: SplitReader, name: str) -> NDArray[Any]:
    array, rows = split.array(name), np.arange(split.rows)
    return np.stack([array.gather(rows, view) for view in range(len(split.views))], axis=1)


def _tensorstore(path: Path, **options: Any) -> tensorstore.TensorStore:
    store = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path)}}
    return tensorstore.open(store, **options).result()


def test_zarr_python_reads_ours(split: SplitReader) -> None:
    group = zarr.open_group(split.path, mode="r")
    assert set(group.array_keys()) == {*ARRAYS, "sample_id", "status"}
    for name in ARRAYS:
        assert np.array_equal(group[name][...], _ours(split, name))
    assert np.array_equal(group["status"][...], split.status)
    assert group["sample_id"][...].tolist() == split.ids
    labels = zarr.open_group(split.path.parent / "labels", mode="r")
    table = labels[labels.attrs["featcache"]["table"]]
    assert np.array_equal(table[split.name][...], split.labels)
    assert group["tokens"].metadata.dimension_names == ("sample", "view", "token", "dim")


def test_tensorstore_reads_ours(split: SplitReader) -> None:
    for name in ARRAYS:
        assert np.array_equal(_tensorstore(split.path / name).read().result(), _ours(split, name))
    assert np.array_equal(_tensorstore(split.path / "status").read().result(), split.status)


def test_xarray_reads_ours(split: SplitReader) -> None:
    cache = split.path.parent
    with xarray.open_zarr(cache, group="train", consolidated=False, chunks=None) as dataset:
        for name in ARRAYS:
            assert np.array_equal(dataset[name].values, _ours(split, name))
        assert dataset["sample_id"].values.tolist() == split.ids
        assert np.array_equal(dataset["status"].values, split.status)
    with xarray.open_zarr(cache, group="class_text", consolidated=False, chunks=None) as texts:
        assert texts["embedding"].dims == ("class", "embedding")


def test_interop_gives_numbers_under_names(split: SplitReader) -> None:
    dataset = to_xarray(split)
    assert dataset["view"].values.tolist() == ["eval", "weak0", "strong0"]
    for name in ARRAYS:
        bits, lazy = _ours(split, name), to_dask(split.array(name))
        expected = from_bfloat16(bits) if split.array(name).bfloat16 else bits
        assert lazy.chunks[:2] == ((6, 6, 2), (1, 1, 1))
        assert np.array_equal(lazy.compute(), expected)
        assert np.array_equal(dataset[name].values, expected)
        assert dataset[name].dtype == expected.dtype
        assert np.array_equal(dataset[name].sel(view="weak0").values, expected[:, 1])


GRIDS = [
    pytest.param((4, 1, 3, 4), (2, 1, 3, 4), id="as-ours"),
    pytest.param((4, 1, 3, 4), (1, 1, 3, 4), id="one-row-chunks"),
    pytest.param((16, 2, 3, 4), (4, 1, 3, 4), id="all-in-one-shard"),
    pytest.param((4, 2, 3, 4), (2, 2, 3, 4), id="two-views-in-a-chunk"),
    pytest.param((6, 4, 6, 8), (3, 2, 3, 4), id="reaching-beyond-the-array"),
    pytest.param((4, 1, 4, 4), (2, 1, 2, 2), id="rows-split-in-chunks"),
    pytest.param((5, 1, 2, 2), (5, 1, 1, 2), id="rows-split-in-shards"),
]


def _foreign_values(dtype: str) -> NDArray[Any]:
    rng = np.random.default_rng(0)
    return (rng.standard_normal((11, 2, 3, 4)) * 50).astype(dtype)


def _assert_equal(path: Path, expected: NDArray[Any]) -> None:
    array, rng = ShardedArray.open(path), np.random.default_rng(1)
    for view in range(expected.shape[1]):
        for rows in (
            np.arange(len(expected)),
            rng.permutation(len(expected)),
            rng.integers(0, len(expected), 30),
        ):
            assert np.array_equal(array.gather(rows, view), expected[rows, view])


@pytest.mark.parametrize("location", ["start", "end"])
@pytest.mark.parametrize(("shard", "chunk"), GRIDS)
def test_we_read_shards_by_zarr_python(
    tmp_path: Path, shard: tuple[int, ...], chunk: tuple[int, ...], location: str
) -> None:
    values = _foreign_values("float32")
    plan = {"shape": shard, "index_location": location}
    array = zarr.create_array(
        tmp_path / "a", shape=values.shape, dtype=values.dtype, shards=plan, chunks=chunk, compressors=None
    )
    array[...] = values
    _assert_equal(tmp_path / "a", values)


@pytest.mark.parametrize("location", ["start", "end"])
@pytest.mark.parametrize(("shard", "chunk"), GRIDS)
def test_we_read_shards_by_tensorstore(
    tmp_path: Path, shard: tuple[int, ...], chunk: tuple[int, ...], location: str
) -> None:
    values = _foreign_values("int16")
    plain = {"name": "bytes", "configuration": {"endian": "little"}}
    sharding = {
        "chunk_shape": chunk,
        "codecs": [plain],
        "index_codecs": [plain, {"name": "crc32c"}],
        "index_location": location,
    }
    metadata = {
        "shape": values.shape,
        "data_type": "int16",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": shard}},
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
    }
    kvstore = {"driver": "file", "path": str(tmp_path / "a")}
    spec = {"driver": "zarr3", "kvstore": kvstore, "metadata": metadata}
    array = tensorstore.open(spec, create=True).result()
    for rows in (slice(7, 11), slice(0, 3), slice(3, 7)):  # so that chunks lie out of order in their shard
        array[rows].write(values[rows]).result()
    _assert_equal(tmp_path / "a", values)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int64", "float16", "float64"])
@pytest.mark.parametrize(
    "encoding", [{"name": "default", "separator": "."}, {"name": "v2", "separator": "."}]
)
def test_we_read_plain_arrays_of_any_type(tmp_path: Path, dtype: str, encoding: dict[str, str]) -> None:
    values = _foreign_values(dtype)
    array = zarr.create_array(
        tmp_path / "a",
        shape=values.shape,
        dtype=dtype,
        chunks=(4, 1, 3, 2),
        compressors=None,
        chunk_key_encoding=encoding,
    )
    array[...] = values
    _assert_equal(tmp_path / "a", values)


@pytest.mark.parametrize("fill", [0.0, 2.5, np.nan, -np.inf])
def test_what_was_never_written_is_the_fill_value(tmp_path: Path, fill: float) -> None:
    array = zarr.create_array(
        tmp_path / "a",
        shape=(11, 2, 3),
        dtype="float32",
        shards=(4, 1, 3),
        chunks=(2, 1, 3),
        compressors=None,
        fill_value=fill,
    )
    array[2:4, 0] = 1  # half of the first shard; the others have no file
    array[8:9, 1] = 1
    found, rows = ShardedArray.open(tmp_path / "a"), np.arange(11)
    for view in range(2):
        assert np.array_equal(found.gather(rows, view), array[:, view], equal_nan=True)


def test_a_shard_with_gaps_between_its_chunks_is_read(tmp_path: Path) -> None:
    import google_crc32c

    values = np.arange(12, dtype="<f4").reshape(4, 1, 3)
    zarr.create_array(
        tmp_path, shape=(4, 1, 3), dtype="<f4", shards=(4, 1, 3), chunks=(2, 1, 3), compressors=None
    )
    index = np.array([[29, 24], [1, 24]], "<u8").tobytes()
    body = b"\0" + values[2:].tobytes() + b"\0\0\0\0" + values[:2].tobytes()
    shard = tmp_path / "c" / "0" / "0" / "0"
    shard.parent.mkdir(parents=True)
    shard.write_bytes(body + index + google_crc32c.value(index).to_bytes(4, "little"))
    assert np.array_equal(zarr.open_array(tmp_path)[...], values)
    _assert_equal(tmp_path, values)


def test_a_compressed_array_is_refused_by_name(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "a", shape=(4, 1, 3), dtype="float32", shards=(4, 1, 3), chunks=(2, 1, 3))
    with pytest.raises(CacheError, match="codec zstd"):
        ShardedArray.open(tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "zarr.json").write_text(json.dumps({"zarr_format": 3, "node_type": "group"}))
    with pytest.raises(CacheError, match="group"):
        ShardedArray.open(tmp_path / "b")
    with pytest.raises(CacheError, match="no Zarr v3 array"):
        ShardedArray.open(tmp_path / "c")


def test_a_folder_for_a_shard_and_a_file_for_a_folder_are_damage(tmp_path: Path) -> None:
    """Which would be read as the fill value, if they were taken for shards that were never written."""
    zarr.create_array(tmp_path / "a", data=np.ones((3, 1, 2), np.float32), chunks=(3, 1, 2), compressors=None)
    shard = tmp_path / "a/c/0/0/0"
    shard.unlink()
    shard.mkdir()
    with pytest.raises(CacheError, match="Is a directory"):
        ShardedArray.open(tmp_path / "a").gather(np.arange(3), 0)
    shard.rmdir()
    shard.parent.rmdir()
    shard.parent.touch()
    with pytest.raises(CacheError, match="Not a directory"):
        ShardedArray.open(tmp_path / "a").gather(np.arange(3), 0)
