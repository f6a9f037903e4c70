"""Each aggregation against the textbook sum, one sample and one token at a time."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from featcache.nn import aggregate

POOLS = get_args(aggregate.Pool)


def some_tokens(seed: int, lengths: list[int], width: int = 4, dim: int = 3) -> tuple[Tensor, Tensor]:
    tokens = torch.randn(len(lengths), width, dim, generator=torch.Generator().manual_seed(seed)).double()
    return tokens, torch.arange(width) < torch.tensor(lengths).unsqueeze(1)


def attention_score(query: list[float], row: list[float]) -> float:
    mean = sum(row) / len(row)
    deviation = math.sqrt(sum((x - mean) ** 2 for x in row) / len(row) + 1e-5)
    score = sum(q * (x - mean) / deviation for q, x in zip(query, row, strict=True))
    return aggregate.GAIN / len(row) * score


def by_hand(pool: str, rows: list[list[float]], query: list[float], p: float) -> list[float]:
    if pool == "cls":
        return rows[0]
    if pool == "gem":
        columns = zip(*rows, strict=True)
        return [math.log(sum(math.exp(p * x) for x in c) / len(rows)) / p for c in columns]
    scores = [attention_score(query, row) for row in rows]
    weights = [1.0 if pool == "mean" else math.exp(score) for score in scores]
    columns = zip(*rows, strict=True)
    return [sum(w * x for w, x in zip(weights, c, strict=True)) / sum(weights) for c in columns]


@pytest.mark.parametrize("pool", POOLS)
@given(
    seed=st.integers(0, 999), lengths=st.lists(st.integers(1, 4), min_size=1, max_size=3), p=st.floats(0.1, 9)
)
@settings(max_examples=30, deadline=None)
def test_matches_a_direct_computation(pool: aggregate.Pool, seed: int, lengths: list[int], p: float) -> None:
    tokens, mask = some_tokens(seed, lengths)
    module = aggregate.make(pool, 3).double()
    # Small enough, despite the large gain, that several tokens have weight.
    query = torch.randn(3, generator=torch.Generator().manual_seed(seed + 1)).double() / aggregate.GAIN
    for name, value in module.named_parameters():
        value.data = {"query": query, "log_p": torch.tensor(math.log(p)).double()}[name]
    expected = [
        by_hand(pool, t[:n].tolist(), query.tolist(), p) for t, n in zip(tokens, lengths, strict=True)
    ]
    torch.testing.assert_close(module(tokens, mask).detach(), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("pool", POOLS)
def test_no_mask_is_a_mask_of_ones(pool: aggregate.Pool) -> None:
    tokens, mask = some_tokens(0, [4, 4])
    module = aggregate.make(pool, 3).double()
    torch.testing.assert_close(module(tokens, None), module(tokens, mask))


def test_gem_runs_from_the_mean_to_the_maximum() -> None:
    tokens, _ = some_tokens(3, [4])
    gem = aggregate.GeM().double()
    gem.log_p.data = torch.tensor(-50.0).double()
    torch.testing.assert_close(gem(tokens, None).detach(), tokens.mean(1), atol=0.02, rtol=0)
    gem.log_p.data = torch.tensor(math.log(1e5)).double()
    torch.testing.assert_close(gem(tokens, None).detach(), tokens.amax(1), atol=1e-4, rtol=0)


def test_gem_stays_finite_on_outlier_tokens() -> None:
    tokens = torch.tensor([[[60000.0], [-60000.0]]], requires_grad=True)
    gem = aggregate.GeM()
    gem(tokens, None).sum().backward()
    assert tokens.grad is not None
    assert torch.isfinite(tokens.grad).all()
    assert torch.isfinite(gem.log_p.grad).all()


@pytest.mark.parametrize("pool", POOLS)
def test_gradients_are_those_of_finite_differences(pool: aggregate.Pool) -> None:
    tokens, mask = some_tokens(5, [2, 4])
    module = aggregate.make(pool, 3).double()
    assert torch.autograd.gradcheck(lambda t: module(t, mask), tokens.requires_grad_())
