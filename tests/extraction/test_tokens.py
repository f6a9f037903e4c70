"""Choosing and shaping tokens."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from featcache.encoders.base import Encoded, Geometry, from_map, masked_mean
from featcache.errors import EncoderError
from featcache.extraction.tokens import check, select


def encoded(rows=4, columns=3, prefix=1, dim=2, batch=2, dtype=torch.float32):
    values = torch.randn(batch, prefix + rows * columns, dim, generator=torch.Generator().manual_seed(0))
    geometry = Geometry(prefix, (rows, columns))
    tokens = {-1: values.to(dtype), -2: 2 * values.to(dtype)}
    return Encoded(tokens, None, torch.ones(batch, 7), dict.fromkeys([-1, -2], geometry))


def test_all_is_the_same_object():
    given_tokens = encoded()
    assert select(given_tokens, "all") is given_tokens


def test_cls_patch_and_pooled_are_slices():
    whole = encoded(prefix=2)
    cls, patch, pooled = (select(whole, choice) for choice in ("cls", "patch", "pooled"))
    for layer in (-1, -2):
        assert torch.equal(cls.tokens[layer], whole.tokens[layer][:, :1])
        assert torch.equal(patch.tokens[layer], whole.tokens[layer][:, 2:])
        assert torch.equal(pooled.tokens[layer], whole.pooled[:, None])
    assert cls.geometry[-1] == Geometry(1, None)
    assert patch.geometry[-1] == Geometry(0, (4, 3))
    for chosen in (cls, patch, pooled):
        check(chosen)
        assert torch.equal(chosen.pooled, whole.pooled)


@settings(deadline=None, max_examples=50)
@given(rows=st.integers(1, 7), columns=st.integers(1, 7), prefix=st.integers(0, 3), data=st.data())
def test_a_smaller_grid_averages_overlapping_bins(rows, columns, prefix, data):
    small = data.draw(st.integers(1, rows)), data.draw(st.integers(1, columns))
    whole = encoded(rows, columns, prefix)
    chosen = select(whole, f"grid:{small[0]}x{small[1]}")
    check(chosen)
    assert chosen.geometry[-1] == Geometry(0, small)
    grid = whole.tokens[-1][:, prefix:].reshape(2, rows, columns, 2)
    for i in range(small[0]):
        for j in range(small[1]):
            high = slice(i * rows // small[0], math.ceil((i + 1) * rows / small[0]))
            wide = slice(j * columns // small[1], math.ceil((j + 1) * columns / small[1]))
            expected = grid[:, high, wide].mean(dim=(1, 2))
            torch.testing.assert_close(chosen.tokens[-1][:, i * small[1] + j], expected)


@settings(deadline=None, max_examples=50)
@given(rows=st.integers(1, 5), columns=st.integers(1, 5), prefix=st.integers(0, 2))
def test_the_grid_itself_is_the_patches(rows, columns, prefix):
    whole = encoded(rows, columns, prefix)
    same = select(whole, f"grid:{rows}x{columns}")
    torch.testing.assert_close(same.tokens[-1], select(whole, "patch").tokens[-1])


def test_half_precision_keeps_its_type():
    half = encoded(dtype=torch.float16)
    assert select(half, "grid:2x1").tokens[-1].dtype == torch.float16


@pytest.mark.parametrize(
    ("choice", "geometry", "part"),
    [
        ("cls", Geometry(0, (4, 3)), "no CLS token"),
        ("patch", Geometry(1, None), "no grid"),
        ("grid:2x2", Geometry(1, None), "no grid"),
        ("grid:5x3", Geometry(1, (4, 3)), "at most 4x3"),
        ("grid:4x4", Geometry(1, (4, 3)), "only become smaller"),
        ("grid:0x3", Geometry(1, (4, 3)), "grid:HxW"),
        ("grid:2", Geometry(1, (4, 3)), "grid:HxW"),
        ("patches", Geometry(1, (4, 3)), "all, cls, patch, pooled"),
    ],
)
def test_a_choice_the_model_does_not_have_is_refused(choice, geometry, part):
    whole = encoded()._replace(geometry=dict.fromkeys([-1, -2], geometry))
    with pytest.raises(EncoderError, match=part):
        select(whole, choice)


def test_a_good_batch_passes():
    check(encoded())
    text = Encoded(
        {-1: torch.ones(2, 5, 3)},
        torch.ones(2, 5, dtype=torch.bool),
        torch.ones(2, 3),
        {-1: Geometry(1, None)},
    )
    check(text)


def with_tokens(value):
    whole = encoded()
    return whole._replace(tokens={**whole.tokens, -2: value})


def with_nan():
    value = encoded().tokens[-2].clone()
    value[1, 3, 0] = float("nan")
    return with_tokens(value)


@pytest.mark.parametrize(
    ("broken", "part"),
    [
        (lambda: with_tokens(torch.ones(2, 13)), r"layer -2 have the wrong shape[\s\S]*\(2, 13\)"),
        (lambda: with_tokens(torch.ones(2, 0, 2)), "wrong shape"),
        (lambda: with_tokens(torch.ones(3, 13, 2)), "differ in batch size"),
        (lambda: with_tokens(torch.ones(2, 12, 2)), r"12 tokens[\s\S]*1 prefix tokens and a grid of 4x3"),
        (lambda: with_tokens(torch.ones(2, 13, 2, dtype=torch.int64)), r"torch\.int64"),
        (with_nan, "row 1 of the batch"),
        (lambda: encoded()._replace(pooled=torch.ones(2)), "pooled has the wrong rank"),
        (lambda: encoded()._replace(pooled=torch.full((2, 3), torch.inf)), "pooled are not finite"),
        (lambda: encoded()._replace(mask=torch.ones(2, 12, dtype=torch.bool)), "mask does not fit"),
        (lambda: encoded()._replace(mask=torch.ones(2, 13)), "mask must be boolean"),
        (lambda: encoded()._replace(geometry={-1: Geometry(0, None)}), "every layer"),
        (lambda: encoded()._replace(tokens={}, geometry={}), "every layer"),
    ],
)
def test_what_does_not_fit_is_named(broken, part):
    with pytest.raises(EncoderError, match=part):
        check(broken())


@settings(deadline=None, max_examples=50)
@given(st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1, max_size=5))
def test_the_masked_mean_sees_real_tokens_only(rows):
    mask = torch.tensor(rows)
    tokens = torch.randn(len(rows), 4, 3, generator=torch.Generator().manual_seed(1))
    means = masked_mean(tokens, mask)
    for row, real in enumerate(rows):
        expected = tokens[row][mask[row]].mean(dim=0) if any(real) else torch.zeros(3)
        torch.testing.assert_close(means[row], expected)


def test_a_map_is_read_row_by_row_behind_its_prefix():
    feature_map = torch.arange(6.0).reshape(1, 1, 2, 3)
    tokens, geometry = from_map(feature_map, torch.full((1, 1, 1), -1.0))
    assert tokens.flatten().tolist() == [-1, 0, 1, 2, 3, 4, 5]
    assert geometry == Geometry(1, (2, 3))
