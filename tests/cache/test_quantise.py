"""int8 tokens: what the arithmetic promises, and that any reader of Zarr finds all it takes to undo it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from featcache.cache.quantise import FLOOR, LARGEST, RunningRms, dequantise, quantise
from featcache.cache.reader import CacheReader
from featcache.cache.spec import Shapes, SplitSpec
from featcache.cache.writer import CacheWriter
from featcache.errors import CacheError, CacheMismatch

Tokens = NDArray[np.float32]
SHAPE = arrays.array_shapes(min_dims=2, max_dims=3, max_side=6)
ORDINARY = st.floats(-1e4, 1e4, width=32, allow_subnormal=False)


@given(arrays.arrays(np.float32, SHAPE, elements=ORDINARY), st.integers(0, 2**32 - 1))
def test_no_value_is_off_by_more_than_half_a_step(tokens: Tokens, seed: int) -> None:
    std = np.random.default_rng(seed).uniform(0.01, 100, tokens.shape[-1]).astype(np.float32)
    values, scale = quantise(tokens, std)
    assert (values.dtype, values.shape) == (np.int8, tokens.shape)
    assert (scale.dtype, scale.shape) == (np.float32, tokens.shape[:-1])
    step = std * scale[..., None].astype(np.float64)
    # Float32 rounds x / std, and its quotient by the scale: a few parts in 10 million of 127 steps.
    assert (np.abs(tokens - values * step) <= step * (0.5 + 1e-4) + 1e-35).all()
    assert values.min(initial=0) >= -LARGEST
    assert (np.abs(values).max(-1)[scale > 0] == LARGEST).all()
    assert np.allclose(dequantise(values, scale, std), values * step, rtol=1e-6, atol=0)


@given(arrays.arrays(np.float32, SHAPE, elements=st.floats(width=32)))
def test_whatever_the_values_the_scale_tells_which_token_is_not_finite(tokens: Tokens) -> None:
    values, scale = quantise(tokens, np.ones(tokens.shape[-1], np.float32))
    assert np.array_equal(np.isfinite(scale), np.isfinite(tokens).all(-1))
    assert (np.abs(values.astype(int)) <= LARGEST).all()


def test_zeros_stay_zeros_and_ties_go_to_even() -> None:
    values, scale = quantise(np.zeros((2, 3), np.float32), np.ones(3, np.float32))
    assert not values.any()
    assert not scale.any()
    assert not dequantise(values, scale, np.ones(3, np.float32)).any()
    values, _ = quantise(np.array([[127.0, 0.5, 1.5, -2.5]]), np.ones(4, np.float32))
    assert values.tolist() == [[127, 0, 2, -2]]


def test_an_outlying_dimension_leaves_the_others_their_precision() -> None:
    tokens = np.random.default_rng(0).standard_normal((500, 64)).astype(np.float32)
    tokens[:, 3] = 500 + 0.1 * tokens[:, 3]
    tokens[:, 9] *= 100
    rms = RunningRms(64)
    for part in np.array_split(tokens, 7):
        rms.add(part)
    assert np.allclose(rms.std(), np.sqrt((tokens.astype(np.float64) ** 2).mean(0)), rtol=1e-6)

    def lost(std: Tokens) -> float:
        error = dequantise(*quantise(tokens, std), std) - tokens
        return float(np.delete(error, [3, 9], axis=1).std())

    assert lost(rms.std()) < 0.02 < 0.3 < lost(np.ones(64, np.float32))


def test_what_stood_still_in_the_pilot_may_move_later() -> None:
    rms = RunningRms(4)
    rms.add(np.array([[1, -1, 0, 1e-9], [-1, 1, 0, 1e-9]], np.float32))
    common = np.sqrt(0.5)
    assert rms.std() == pytest.approx([1, 1, FLOOR * common, FLOOR * common])
    assert RunningRms(3).std().tolist() == [1, 1, 1]
    still = RunningRms(2)
    still.add(np.zeros((5, 2), np.float32))
    assert still.std().tolist() == [1, 1]


@pytest.fixture
def std(synthetic: ModuleType) -> dict[int, list[float]]:
    """Of each layer its own."""
    return {
        a.layer: np.linspace(0.1, -2 * a.layer, a.dim).astype("f4").tolist() for a in synthetic.SHAPES.layers
    }


@pytest.fixture
def written(synthetic: ModuleType, std: dict[int, list[float]], tmp_path: Path) -> Callable[[], Path]:
    """Writes the synthetic cache as int8 and returns its path."""

    def write() -> Path:
        patch = pytest.MonkeyPatch()
        patch.setattr(synthetic, "SHAPES", synthetic.SHAPES.with_std(std))
        synthetic.write(tmp_path / "c.zarr", cache=synthetic.spec(dtype="int8"))
        patch.undo()
        return tmp_path / "c.zarr"

    return write


def test_zarr_python_finds_what_undoes_it(written: Callable[[], Path], synthetic: ModuleType) -> None:
    group = zarr.open_group(written(), mode="r")
    split = group["train"]
    for layer, suffix in zip(group.attrs["featcache"]["shapes"]["layers"], ("", "_layer-2"), strict=True):
        tokens, scale = split[f"tokens{suffix}"][:], split[f"token_scale{suffix}"][:]
        assert (tokens.dtype, scale.dtype, scale.shape) == (np.int8, np.float32, (14, 3, 5))
        assert not tokens[3].any()  # the row that failed
        assert not scale[3].any()
        exact = synthetic.values(2, 4, 14, layer["tokens"], layer["dim"])
        step = scale[4:, 2, :, None] * np.array(layer["std"], np.float32)
        assert (np.abs(exact - tokens[4:, 2] * step) <= step * 0.5001).all()
    assert split["pooled"].dtype == np.float16


def test_the_cache_is_continued_with_its_own_std_alone(
    written: Callable[[], Path], synthetic: ModuleType, std: dict[int, list[float]]
) -> None:
    path = written()
    shapes, source = CacheReader.open(path).shapes, SplitSpec(content="", rows=1)
    assert {array.layer: list(array.std) for array in shapes.layers} == std
    other = shapes.with_std({layer: [2 * value for value in values] for layer, values in std.items()})
    with CacheWriter(path, synthetic.spec(dtype="int8")) as writer:
        with pytest.raises(CacheMismatch, match=r"`layers\[0\].std\[0\]`"):
            writer.split("more", source, ["a"], other)
        writer.split("more", source, ["a"], shapes)


@pytest.mark.parametrize("dtype", ["int8", "float16"])
def test_shapes_without_std_or_with_one_too_many_are_refused(
    synthetic: ModuleType, std: dict[int, list[float]], tmp_path: Path, dtype: str
) -> None:
    shapes: Shapes = synthetic.SHAPES if dtype == "int8" else synthetic.SHAPES.with_std(std)
    wrong = pytest.raises(CacheError, match=dtype)
    with CacheWriter(tmp_path / "c.zarr", synthetic.spec(dtype=dtype)) as writer, wrong:
        writer.split("train", SplitSpec(content="", rows=1), ["a"], shapes)
    assert not (tmp_path / "c.zarr").exists()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_value_that_is_not_finite_is_refused_by_sample(
    synthetic: ModuleType, std: dict[int, list[float]], tmp_path: Path, bad: float
) -> None:
    shapes, ids = synthetic.SHAPES.with_std(std), [f"{row}.png" for row in range(14)]
    with CacheWriter(tmp_path / "c.zarr", synthetic.spec(dtype="int8")) as writer:
        split = writer.split("train", SplitSpec(content="", rows=14), ids, shapes)
        batch = synthetic.batch(0, 0, 14)
        batch["tokens"][-2][5, 1, 2] = bad
        with split.begin(split.missing()[0]) as out, pytest.raises(CacheError, match=r"5\.png") as error:
            out.append(**batch)
    assert str(bad) in str(error.value)
    assert "`token_scale_layer-2`" in str(error.value)
