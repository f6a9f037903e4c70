"""The projector starts as the frozen representation, learns in all parts, and ignores padding."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from featcache.batch import Features
from featcache.errors import ConfigError
from featcache.nn.aggregate import Pool
from featcache.nn.projector import SHORT, Layout, Projector, ProjectorOptions

POOLS = get_args(Pool)
HALF = (torch.float16, torch.bfloat16)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def build(
    pool: Pool = "mean",
    dim: int = 8,
    pooled_dim: int = 8,
    depth: int = 1,
    dropout: float = 0.0,
    seed: int = 0,
) -> Projector:
    options = ProjectorOptions(pool=pool, heads=2, depth=depth, dropout=dropout)
    return Projector(options, dim, pooled_dim, seeded(seed))


def features(
    lengths: list[int] | None = None, dim: int = 8, pooled_dim: int = 8, dtype: torch.dtype = torch.float32
) -> Features:
    rows = len(lengths or [5, 5, 5])
    mask = None if lengths is None else torch.arange(5) < torch.tensor(lengths).unsqueeze(1)
    tokens = torch.randn(rows, 5, dim, generator=seeded(1)).to(dtype)
    return Features(tokens, mask, torch.randn(rows, pooled_dim, generator=seeded(2)).to(dtype))


def take_a_step(projector: Projector, batch: Features, steps: int = 1) -> None:
    target = torch.randn(batch.pooled.shape, generator=seeded(3))
    optimiser = torch.optim.Adam(projector.parameters(), lr=0.01)
    for _ in range(steps):
        optimiser.zero_grad()
        (projector(batch) - target).square().sum().backward()
        optimiser.step()


@pytest.mark.parametrize("pool", POOLS)
@given(
    lengths=st.none() | st.lists(st.integers(0, 5), min_size=1, max_size=4),
    dims=st.tuples(st.sampled_from([4, 8, 12]), st.integers(1, 12)),
    depth=st.integers(1, 2),
    dtype=st.sampled_from([torch.float32, *HALF]),
)
@settings(max_examples=25, deadline=None)
def test_starts_exactly_as_the_frozen_embedding(
    pool: Pool, lengths: list[int] | None, dims: tuple[int, int], depth: int, dtype: torch.dtype
) -> None:
    batch = features(lengths, *dims, dtype=dtype)
    z = build(pool, *dims, depth=depth, dropout=0.5)(batch)
    assert z.dtype == torch.float32
    assert torch.equal(z, batch.pooled.float())


def test_starts_exactly_as_the_frozen_embedding_under_autocast() -> None:
    batch = features([2, 5], dim=8, pooled_dim=6)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(build("attention", 8, 6)(batch), batch.pooled)


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("junk", [1e4, float("inf"), float("nan")])
@pytest.mark.parametrize("multiple", [1, 4, 128])
def test_padding_has_no_influence(
    pool: Pool, junk: float, multiple: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("featcache.nn.projector.ROUND", multiple)
    batch = features([2, 5, 3])
    projector = build(pool, depth=2)
    take_a_step(projector, batch, steps=3)
    assert batch.mask is not None
    dirty = batch._replace(tokens=batch.tokens.masked_fill(~batch.mask.unsqueeze(-1), junk))
    assert torch.equal(projector(dirty), projector(batch))
    alone = Features(batch.tokens[:1, :2], None, batch.pooled[:1])
    torch.testing.assert_close(projector(alone), projector(batch)[:1])


@pytest.mark.parametrize("pool", POOLS)
def test_a_sample_is_worth_the_same_in_any_company(pool: Pool) -> None:
    """The first token is padding; a batch of 60 keeps some of the padding, a batch of one all of it."""
    mask = torch.ones(60, 5, dtype=torch.bool)
    mask[:, 0] = False
    batch = features([5] * 60)._replace(mask=mask)
    projector = build(pool, depth=2)
    take_a_step(projector, batch, steps=3)
    alone = [
        projector(Features(batch.tokens[i : i + 1], mask[i : i + 1], batch.pooled[i : i + 1]))
        for i in (0, 59)
    ]
    torch.testing.assert_close(torch.cat(alone), projector(batch)[[0, 59]])


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("pooled_dim", [8, 5, 11])
@pytest.mark.parametrize("multiple", [1, 128])
def test_gradients_reach_every_parameter_after_one_step(
    pool: Pool, pooled_dim: int, multiple: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("featcache.nn.projector.ROUND", multiple)
    batch = features([2, 5, 3], pooled_dim=pooled_dim)
    projector = build(pool, pooled_dim=pooled_dim, depth=2)
    take_a_step(projector, batch, steps=1)
    projector.zero_grad()
    projector(batch).square().sum().backward()
    for name, parameter in projector.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("pool", POOLS)
def test_a_sample_of_padding_only_stays_finite(pool: Pool) -> None:
    batch = features([0, 5])
    projector = build(pool)
    take_a_step(projector, batch, steps=2)
    assert all(torch.isfinite(p).all() for p in projector.parameters())
    assert torch.isfinite(projector(batch)).all()


def test_the_generator_decides_and_the_global_one_is_untouched() -> None:
    before = torch.get_rng_state()
    one, same, other = (build(dim=8, pooled_dim=5, seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["blocks.0.qkv.weight"], other["blocks.0.qkv.weight"])


def test_the_map_to_another_width_starts_orthogonal() -> None:
    weight = build(dim=4, pooled_dim=8).widen.weight
    torch.testing.assert_close(weight.T @ weight, torch.eye(4))


def test_permuting_the_batch_permutes_the_result() -> None:
    batch, order = features([2, 5, 3]), torch.tensor([2, 0, 1])
    assert batch.mask is not None
    projector = build("attention")
    take_a_step(projector, batch)
    shuffled = Features(batch.tokens[order], batch.mask[order], batch.pooled[order])
    torch.testing.assert_close(projector(shuffled), projector(batch)[order])


def test_heads_that_do_not_fit_name_those_that_do() -> None:
    with pytest.raises(
        ConfigError, match=r"heads=4, width 10[\s\S]*\[1, 2, 5, 10\][\s\S]*projector\.heads': 2"
    ):
        Projector(ProjectorOptions(heads=4), 10, 10, seeded(0))


@given(
    lengths=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    multiple=st.integers(1, 7),
    seed=st.integers(0, 99),
)
def test_tokens_without_most_padding_are_worth_the_same(lengths: list[int], multiple: int, seed: int) -> None:
    projector, batch = build("attention", depth=2), features(lengths)
    take_a_step(projector, batch)
    assert batch.mask is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("featcache.nn.projector.ROUND", multiple)
        packed, padded = Layout(batch.mask), Layout(batch.mask)
    padded.index = None
    x = torch.randn(batch.tokens.shape, generator=seeded(seed))
    short, long = packed.pack(x), x
    assert len(short) == min(-(-sum(lengths) // multiple) * multiple, batch.mask.numel())
    assert torch.equal(packed.pad(short)[batch.mask], x[batch.mask])
    for block in projector.blocks:
        short, long = block(short, packed), block(long, padded)
    torch.testing.assert_close(packed.pad(short)[batch.mask], long[batch.mask])


@pytest.mark.parametrize("lengths", [None, [1, 3, 5]])
def test_plain_attention_in_bfloat16_is_the_fused_one(
    lengths: list[int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    projector, batch = build("attention"), features(lengths)
    take_a_step(projector, batch, steps=5)
    found = []
    for short in (SHORT, 0):
        monkeypatch.setattr("featcache.nn.projector.SHORT", short)
        with torch.autocast("cpu", torch.bfloat16):
            found.append(projector(batch))
    exact = projector(batch)
    for z in found:
        torch.testing.assert_close(z.float(), exact, rtol=0.03, atol=0.03)
