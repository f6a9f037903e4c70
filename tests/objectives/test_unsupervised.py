"""Unsupervised finetuning against loops over samples, its gradients, and its edges."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from featcache.batch import Batch, Features, Views
from featcache.objectives.base import ProbeData
from featcache.objectives.linear import Linear, LinearOptions
from featcache.objectives.unsupervised import (
    Unsupervised,
    UnsupervisedOptions,
    contrast,
    draw_partners,
    joined,
    mixed,
    mixed_targets,
)

NAIVE = {"replay": False, "mixing": False}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=dtype)


def loop_nce(query: Tensor, key: Tensor, tau: float, target: list[dict[int, float]]) -> float:
    total = 0.0
    for q, wanted in zip(query.tolist(), target, strict=True):
        scores = []
        for k in key.tolist():
            dot = sum(a * b for a, b in zip(q, k, strict=True))
            scores.append(dot / math.hypot(*q) / math.hypot(*k) / tau)
        log_sum = math.log(sum(math.exp(score) for score in scores))
        total -= sum(weight * (scores[j] - log_sum) for j, weight in wanted.items())
    return total / len(query)


def make(world: Any, **options: Any) -> Unsupervised:
    return Unsupervised(UnsupervisedOptions(**options), world.task())


def batch_of(world: Any, unlabelled: int = 6, replay: int = 3, views: int = 2) -> Batch:
    found = world.batch(Views((), ("eval",) * views), unlabelled_rows=unlabelled)
    label = torch.arange(replay) % world.classes
    return found._replace(replay=tuple(world.features(label, 50 + i) for i in range(views)) if replay else ())


def run(objective: Unsupervised, world: Any, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    loss, terms = objective(world.projector(), batch, 0.0, generator(7))
    return loss, dict(terms)


def test_contrast_is_a_loop() -> None:
    query, key = draw(0, 4, 3), draw(1, 6, 3)
    expected = loop_nce(query, key, 0.3, [{i: 1.0} for i in range(4)])
    assert contrast(query, key, 0.3).item() == pytest.approx(expected, rel=1e-5)
    partner, share = torch.tensor([1, 5, 0, 2]), torch.tensor([0.2, 0.5, 1.0, 0.7])
    target = [{i: s, p: 1 - s} for i, (p, s) in enumerate(zip(partner.tolist(), share.tolist(), strict=True))]
    expected = loop_nce(query, key, 0.3, target)
    found = contrast(query, key, 0.3, mixed_targets(partner, share, 6))
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_gradients() -> None:
    query, key = (draw(seed, 3, 4, dtype=torch.float64).requires_grad_() for seed in (0, 1))
    target = mixed_targets(torch.tensor([2, 0, 1]), torch.tensor([0.3, 0.6, 0.9]), 3)
    assert torch.autograd.gradcheck(lambda q, k: contrast(q, k, 0.5, target), (query, key))
    tokens, pooled = draw(2, 3, 2, 4, dtype=torch.float64), draw(3, 3, 4, dtype=torch.float64)
    partner, share = torch.tensor([1, 2]), torch.tensor([0.3, 0.6])
    assert torch.autograd.gradcheck(
        lambda t, p: mixed(Features(t, None, p), partner, share)[::2],
        (tokens.requires_grad_(), pooled.requires_grad_()),
    )


@pytest.mark.parametrize(("own", "pool"), [(5, 5), (5, 8), (1, 3), (2, 2)])
def test_partners_are_others_and_reach_everyone(own: int, pool: int) -> None:
    pairs = [draw_partners(torch.arange(own), pool, 0.5, generator(seed)) for seed in range(400)]
    partner = torch.stack([found for found, _ in pairs])
    for i in range(own):
        counts = torch.bincount(partner[:, i], minlength=pool)
        assert counts[i] == 0
        others = counts[torch.arange(pool) != i].float() / 400
        assert (others - 1 / (pool - 1)).abs().max() < 0.1
    share = torch.stack([found for _, found in pairs])
    assert share.var().item() == pytest.approx(1 / 8, abs=0.02)  # of Beta(a, a): 1 / (4 (2a + 1))
    assert share.mean().item() == pytest.approx(0.5, abs=0.05)


def test_the_draw_follows_the_sample_not_its_place() -> None:
    order, shuffle = torch.tensor([40, 3, 17, 8]), torch.tensor([2, 0, 3, 1])
    partner, share = draw_partners(order, 6, 1.0, generator())
    moved, moved_share = draw_partners(order[shuffle], 6, 1.0, generator())
    names = torch.cat([order, torch.tensor([-1, -2])])
    moved_names = torch.cat([order[shuffle], torch.tensor([-1, -2])])
    assert torch.equal(names[partner][shuffle], moved_names[moved])
    assert torch.equal(share[shuffle], moved_share)


def test_a_mix_under_masks() -> None:
    """Values outside a mask, also NaN, have no influence on a mix."""
    tokens, mask = draw(0, 2, 3, 4), torch.tensor([[True, True, False], [True, False, False]])
    broken = tokens.masked_fill(~mask.unsqueeze(-1), math.nan)
    found = mixed(Features(broken, mask, draw(1, 2, 4)), torch.tensor([1]), torch.tensor([0.25]))
    assert found.mask is not None
    assert found.mask.tolist() == [[True, True, False]]
    torch.testing.assert_close(found.tokens[0, 0], 0.25 * tokens[0, 0] + 0.75 * tokens[1, 0])
    torch.testing.assert_close(found.tokens[0, 1], 0.25 * tokens[0, 1])
    assert found.tokens[0, 2].tolist() == [0.0] * 4


def test_joining_pads_and_masks_the_shorter() -> None:
    long, short = (Features(draw(t, 2, t, 4), None, draw(9, 2, 4)) for t in (5, 3))
    both = joined(long, short)
    assert both.mask is not None
    assert both.mask.sum(1).tolist() == [5, 5, 3, 3]
    assert torch.equal(both.tokens[2:, :3], short.tokens)
    assert joined(long, long).mask is None
    assert joined(long) is long


def test_the_terms_are_loops_over_samples(world: Any) -> None:
    batch, projector = batch_of(world), world.projector()
    objective = make(world, contrast_head=False, w_mix=0.5, w_keep=2.0, tau=0.3)
    loss, terms = run(objective, world, batch)
    z = [
        torch.cat([projector(own), projector(old)])
        for own, old in zip(batch.unlabelled, batch.replay, strict=True)
    ]
    same = [{i: 1.0} for i in range(9)]
    nce = (loop_nce(z[0], z[1], 0.3, same) + loop_nce(z[1], z[0], 0.3, same)) / 2
    keep = 1 - torch.cosine_similarity(projector(batch.replay[0]), batch.replay[0].pooled)
    assert terms["nce"].item() == pytest.approx(nce, rel=1e-4)
    assert terms["keep"].item() == pytest.approx(keep.mean().item() / 0.3, rel=1e-3)
    partner, share = draw_partners(batch.unlabelled_index, 9, 1.0, generator(7))
    everyone = joined(batch.unlabelled[0], batch.replay[0])
    rows = []
    for i, (k, part) in enumerate(zip(partner.tolist(), share.tolist(), strict=True)):
        tokens, pooled = (part * x[i].float() + (1 - part) * x[k].float() for x in everyone[::2])
        rows.append(projector(Features(tokens[None], None, pooled[None]))[0])
    targets = [
        {i: s, k: 1 - s} for i, (k, s) in enumerate(zip(partner.tolist(), share.tolist(), strict=True))
    ]
    assert terms["nce_mix"].item() == pytest.approx(loop_nce(torch.stack(rows), z[1], 0.3, targets), rel=1e-3)
    assert loss.item() == pytest.approx(
        (terms["nce"] + 0.5 * terms["nce_mix"] + 2 * terms["keep"]).item(), rel=1e-5
    )
    assert terms["replay_share"].item() == pytest.approx(1 / 3)


def test_each_part_can_be_switched_off(world: Any) -> None:
    batch = batch_of(world)
    parts = {
        "naive": ({**NAIVE}, {"nce"}),
        "replay": ({"mixing": False}, {"nce", "keep", "replay_share"}),
        "mixing": ({"replay": False}, {"nce", "nce_mix", "replay_share"}),
        "both": ({}, {"nce", "nce_mix", "keep", "replay_share"}),
    }
    found = {name: run(make(world, **options), world, batch)[1] for name, (options, _) in parts.items()}
    assert {name: set(terms) for name, terms in found.items()} == {n: want for n, (_, want) in parts.items()}
    assert found["naive"]["nce"] == found["mixing"]["nce"]
    assert found["naive"]["nce"] < found["replay"]["nce"] == found["both"]["nce"]
    assert make(world, **NAIVE).views(("eval", "weak", "strong")).replay == ()
    assert make(world).views(("eval", "weak", "strong")) == Views((), ("weak", "strong"), ("weak", "strong"))
    assert make(world).views(("eval",)) == Views((), ("eval",), ("eval",))


def test_labels_take_no_part(world: Any) -> None:
    batch = batch_of(world)
    loss, _ = run(make(world), world, batch)
    changed = batch._replace(label=batch.label.flip(0) * 0)
    assert torch.equal(loss, run(make(world), world, changed)[0])


@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.parametrize("replay", [0, 1])
def test_a_single_sample(world: Any, views: int, replay: int) -> None:
    loss, terms = run(make(world), world, batch_of(world, unlabelled=1, replay=replay, views=views))
    loss.backward()  # type: ignore[no-untyped-call]
    assert torch.isfinite(loss)
    if not replay:
        assert terms["nce"] == terms["nce_mix"] == 0
        assert "replay_share" not in terms


def test_without_unlabelled_samples_the_labelled_ones_are_contrasted(world: Any) -> None:
    objective = Unsupervised(UnsupervisedOptions(), world.task(0))
    views = objective.views(("eval", "weak"))
    assert views == Views(("weak", "weak"), (), ("weak", "weak"))
    batch = world.batch(views, rows=4)
    _, terms = run(objective, world, batch)
    assert {"nce", "nce_mix"} == set(terms)
    assert 0 < terms["nce"] < math.log(4) + 1


@pytest.mark.parametrize("label", [[0, 1, 2, 0, 1, 2], [0, 2, 0, 2], [1, 1]])
def test_the_fitted_head_is_the_linear_probe(world: Any, label: list[int]) -> None:
    z = world.features(torch.tensor(label), 3).pooled
    query = world.features(torch.arange(3), 4).pooled
    objective = make(world)
    objective.finish(z, torch.tensor(label))
    expected = Linear(LinearOptions()).fit(ProbeData(z, torch.tensor(label), 3, None), 0)(query)
    found = objective.logits(query).log_softmax(1)
    seen = sorted(set(label))
    torch.testing.assert_close(found[:, seen], expected[:, seen], atol=1e-4, rtol=1e-4)
    assert set(found.argmax(1).tolist()) <= set(label)
    fresh = make(world)
    fresh.load_state_dict(objective.state_dict())
    assert torch.equal(fresh.logits(query), objective.logits(query))
