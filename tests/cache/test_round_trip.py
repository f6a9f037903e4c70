"""What is written is what is read: any shape, type, shard and chunk size, in any order."""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from featcache.cache import layout
from featcache.cache.codec import from_bfloat16, to_storage
from featcache.cache.reader import FAILED, MISSING, WRITTEN, CacheReader
from featcache.cache.spec import CacheSpec, LayoutSpec, Shapes, SplitSpec, TokenArray
from featcache.cache.writer import CacheWriter
from featcache.errors import CacheError
from featcache.specs import EncoderSpec, ViewSpec


@pytest.fixture(scope="module", autouse=True)
def _several_chunks_in_a_small_shard() -> Iterator[None]:
    patch = pytest.MonkeyPatch()
    patch.setattr(layout, "MIN_CHUNK_BYTES", 100)
    yield
    patch.undo()


def _write(path: Path, values: dict[str, NDArray[Any]], dtype: str, block: int, batch: int) -> None:
    rows, views, tokens, dim = values["tokens"].shape
    spec = CacheSpec.parse(
        {
            "encoder": EncoderSpec(
                name="s", weights="", modality="image", preprocess="", norm="", projection=""
            ),
            "layers": (-1,),
            "tokens": "all",
            "views": ViewSpec(weak=views - 1),
            "dtype": dtype,
        }
    )
    pooled = values["pooled"].shape[2]
    shapes = Shapes(layers=(TokenArray(layer=-1, tokens=tokens, dim=dim),), pooled=pooled, mask=True)
    with CacheWriter(path, spec, layout=LayoutSpec(shard_size=str(block))) as writer:
        ids, source = [f"s{row}" for row in range(rows)], SplitSpec(content="", rows=rows)
        split = writer.split("train", source, ids, shapes)
        for unit in split.missing():
            with split.begin(unit) as out:
                for start in range(unit.start, unit.stop, batch):
                    at = slice(start, min(start + batch, unit.stop)), unit.view
                    out.append({-1: values["tokens"][at]}, values["pooled"][at], values["token_mask"][at])
                out.commit()


@settings(max_examples=15, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 17), st.integers(1, 2), st.integers(1, 4), st.integers(1, 9)),
    dtype=st.sampled_from(["float16", "bfloat16", "float32"]),
    block=st.integers(1, 20),
    batch=st.integers(1, 6),
    seed=st.integers(0, 2**32 - 1),
)
def test_gathered_rows_equal_written_rows(
    shape: tuple[int, int, int, int], dtype: str, block: int, batch: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    values: dict[str, NDArray[Any]] = {
        "tokens": rng.standard_normal(shape, np.float32),
        "pooled": rng.standard_normal((*shape[:2], shape[3]), np.float32),
        "token_mask": rng.random(shape[:3]) < 0.5,
    }
    with tempfile.TemporaryDirectory() as folder:
        _write(Path(folder, "c.zarr"), values, dtype, block, batch)
        split = CacheReader.open(Path(folder, "c.zarr")).split("train")
        split.check()
        for name, written in values.items():
            expected = written if name == "token_mask" else to_storage(written, dtype)
            array = split.array(name)
            assert array.shape == written.shape
            orders = (np.arange(shape[0]), rng.permutation(shape[0]), rng.integers(0, shape[0], 9))
            for rows in (*orders, np.sort(orders[2]), orders[0][:0]):
                for view in range(shape[1]):
                    assert np.array_equal(array.gather(rows, view), expected[rows, view])


def test_everything_else_a_split_knows(whole: Path, synthetic: ModuleType) -> None:
    cache = CacheReader.open(whole)
    assert cache.spec == synthetic.spec()
    assert cache.fingerprint == synthetic.spec().fingerprint()
    assert cache.shapes == synthetic.SHAPES
    assert cache.split_names == ("train",)
    assert cache.class_names == ("cat", "dog", "owl")
    assert np.array_equal(cache.class_text, np.eye(3, 7))
    split = cache.split("train")
    assert (split.name, split.rows, split.views) == ("train", 14, ("eval", "weak0", "strong0"))
    assert split.labels.tolist() == [row % 3 for row in range(14)]
    assert split.ids == [f"train/{row:04}.png" for row in range(14)]
    assert split.failures() == {3: "truncated JPEG"}
    assert split.complete()
    assert cache.nbytes() > sum(split.array(name).nbytes for name in split.arrays)
    assert set(split.arrays) == {"tokens", "tokens_layer-2", "pooled", "token_mask"}


def test_a_failed_row_is_kept_marked_and_zero(whole: Path, synthetic: ModuleType) -> None:
    split = CacheReader.open(whole).split("train")
    expected = np.full((14, 3), WRITTEN)
    expected[3] = FAILED
    assert np.array_equal(split.status, expected)
    rows = np.array([3, 4])
    for name in split.arrays:
        lost, kept = split.array(name).gather(rows, 1)
        assert not lost.any()
        assert kept.any()
    assert np.array_equal(split.array("pooled").gather(rows[1:], 1), synthetic.values(1, 4, 5, 7))


def test_a_buffer_is_filled_and_only_a_fitting_one_is_taken(whole: Path) -> None:
    array = CacheReader.open(whole).split("train").array("tokens")
    rows, out = np.array([13, 0, 7]), np.full((3, 5, 8), np.nan, np.float32)
    assert array.gather(rows, 2, out) is out
    assert np.array_equal(out, array.gather(rows, 2))
    for wrong in (out[:2], out.astype(np.float64), np.empty((3, 5, 16), np.float32)[..., ::2]):
        with pytest.raises(ValueError, match="C-contiguous"):
            array.gather(rows, 2, wrong)


@pytest.mark.parametrize(("row", "view"), [(14, 0), (-1, 0), (0, 3), (0, -1)])
def test_rows_and_views_outside_are_refused(whole: Path, row: int, view: int) -> None:
    with pytest.raises(IndexError, match=r"outside .*(14|3)"):
        CacheReader.open(whole).split("train").array("pooled").gather(np.array([row]), view)


def test_arrays_and_splits_survive_pickling(whole: Path) -> None:
    split = CacheReader.open(whole).split("train")
    again = pickle.loads(pickle.dumps(split))
    array = pickle.loads(pickle.dumps(split.array("tokens")))
    rows = np.arange(14)
    expected = split.array("tokens").gather(rows, 0)
    assert np.array_equal(array.gather(rows, 0), expected)
    assert np.array_equal(again.array("tokens").gather(rows, 0), expected)


def test_a_begun_split_says_what_is_missing(tmp_path: Path, synthetic: ModuleType) -> None:
    with CacheWriter(tmp_path / "c.zarr", synthetic.spec(), layout=LayoutSpec(shard_size="6")) as writer:
        source, ids = SplitSpec(content="", rows=14), [str(row) for row in range(14)]
        split = writer.split("train", source, ids, synthetic.SHAPES)
        units = split.missing()
        with split.begin(units[0]) as out:
            out.append(**synthetic.batch(0, 0, 6))
            out.commit()
        assert split.missing() == units[1:]
    found = CacheReader.open(tmp_path / "c.zarr").split("train")
    assert not found.complete()
    assert np.count_nonzero(found.status == MISSING) == 14 * 3 - 6
    with pytest.raises(CacheError, match="train") as error:
        found.check()
    assert "1 of 9" in str(error.value)


def test_bfloat16_is_read_as_bits(tmp_path: Path, synthetic: ModuleType) -> None:
    synthetic.write(tmp_path / "c.zarr", cache=synthetic.spec(dtype="bfloat16"))
    array = CacheReader.open(tmp_path / "c.zarr").split("train").array("pooled")
    assert array.bfloat16
    assert array.dtype == np.uint16
    exact = synthetic.values(0, 6, 9, 7)
    found = from_bfloat16(array.gather(np.arange(6, 9), 0))
    assert np.allclose(found, exact, rtol=2**-8, atol=0)
    assert not np.array_equal(found, exact)
