"""Cosine head and critics: closed forms, initial values, limits."""

from __future__ import annotations

import math

import pytest
import torch

from featcache.errors import TrainError
from featcache.mi import terms
from featcache.nn.critics import Critic
from featcache.nn.heads import MAX_SCALE, CosineHead
from featcache.nn.init import unit


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_logits_are_scaled_cosines() -> None:
    weight, z = torch.randn(3, 4, generator=seeded(0)), torch.randn(2, 4, generator=seeded(1))
    expected = torch.cosine_similarity(z[:, None], weight[None], dim=-1) / 0.07
    torch.testing.assert_close(CosineHead(weight)(z), expected)
    torch.testing.assert_close(CosineHead(7 * weight, bias=-2.0)(z / 9), expected - 2)
    center = torch.full((z.shape[1],), 0.1)
    moved = CosineHead(weight, center=center)(5 * z)
    around = z / z.norm(dim=1, keepdim=True) - center
    torch.testing.assert_close(moved, torch.cosine_similarity(around[:, None], weight[None], dim=-1) / 0.07)


def test_the_scale_is_learned_within_limits() -> None:
    head = CosineHead(torch.eye(2))
    assert head.scale.item() == pytest.approx(1 / 0.07)
    head.log_scale.data.fill_(50.0)
    assert head.scale.item() == pytest.approx(MAX_SCALE)
    head.log_scale.data.fill_(-50.0)
    assert head.scale.item() == pytest.approx(1.0)


def test_logits_keep_full_precision_under_autocast() -> None:
    head, z = CosineHead(torch.randn(3, 16, generator=seeded(0))), torch.randn(5, 16, generator=seeded(1))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(head(z), head(z.clone()))
        mixed = head(z)
    torch.testing.assert_close(mixed, head(z))


def test_an_unknown_class_is_not_predicted_at_first() -> None:
    head = CosineHead(torch.tensor([[1.0, 0.1], [0.9, -0.1], [0.0, 0.0]]))
    z = torch.tensor([[1.0, 0.0]], requires_grad=True)
    logits = head(z)
    assert logits.argmin() == 2
    logits.sum().backward()
    assert z.grad is not None
    assert head.weight.grad.abs().max() < 1e3


def test_several_unknown_classes_are_not_one() -> None:
    known = torch.randn(3, 8, generator=seeded(0)) + 2
    head = CosineHead(torch.cat([known, torch.zeros(4, 8)]))
    assert torch.equal(head.weight, CosineHead(torch.cat([known, torch.zeros(4, 8)])).weight)
    directions = unit(head.weight.detach())
    assert (directions[3:] @ -unit(unit(known).mean(0)) > 0.98).all()
    assert len(torch.unique(directions[3:], dim=0)) == 4
    assert (head(known)[:, 3:].amax(1) < head(known)[:, :3].amin(1)).all()


def test_no_known_class_is_refused() -> None:
    with pytest.raises(TrainError, match="all zero"):
        CosineHead(torch.zeros(3, 4))


def test_unit_has_a_bounded_gradient_at_zero() -> None:
    x = torch.zeros(1, 3, requires_grad=True)
    unit(x).sum().backward()
    assert x.grad is not None
    assert x.grad.abs().max() <= 1e6 + 1


@pytest.mark.parametrize("spectral", [False, True])
def test_a_frozen_critic_passes_gradients_on_and_keeps_none(spectral: bool) -> None:
    critic = Critic(3, seeded(0), hidden=8, spectral=spectral).eval()
    x = torch.randn(4, 3, generator=seeded(1)).requires_grad_()
    torch.testing.assert_close(critic.frozen(x), critic(x))
    critic.frozen(x).sum().backward()
    assert x.grad is not None
    assert x.grad.abs().max() > 0
    assert all(parameter.grad is None for parameter in critic.parameters())


def test_critics_come_from_the_generator_alone() -> None:
    before = torch.get_rng_state()
    one, same, other = (Critic(3, seeded(s), spectral=True).eval() for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    x = torch.randn(4, 3, generator=seeded(9))
    assert torch.equal(one(x), same(x))
    assert not torch.equal(one(x), other(x))


def test_spectral_normalisation_bounds_the_slope() -> None:
    critic = Critic(3, seeded(0), spectral=True)
    for _ in range(30):
        critic(torch.zeros(1, 3))
    critic.eval()
    a, b = torch.randn(50, 3, generator=seeded(1)), torch.randn(50, 3, generator=seeded(2))
    slope = (critic(a) - critic(b)).abs() / (a - b).norm(dim=1)
    assert slope.max() <= 1.01


def test_a_trained_critic_estimates_the_divergence() -> None:
    """KL(N(1, 1) || N(0, 1)) = 1/2, and the logit is the log density ratio 1/2 - x."""
    critic, generator = Critic(1, seeded(0), hidden=16), seeded(1)
    optimiser = torch.optim.Adam(critic.parameters(), lr=5e-3)
    for _ in range(250):
        real = torch.randn(256, 1, generator=generator)
        loss = terms.critic_loss(critic(real), critic(1 + torch.randn(256, 1, generator=generator)))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    fake = 1 + torch.randn(20000, 1, generator=generator)
    assert terms.critic_kl(critic.frozen(fake)).item() == pytest.approx(0.5, abs=0.12)
    assert loss.item() < math.log(2)
