"""TwinTURBO and supervised training: their totals, weights, critics, memory and fallbacks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from featcache.batch import Batch, Views
from featcache.errors import ConfigError, TrainError
from featcache.nn.critics import Critic
from featcache.objectives._adversarial import adversarial, class_prior, sample_one_hot
from featcache.objectives.supervised import Supervised, SupervisedOptions
from featcache.objectives.twinturbo import TwinTurbo, TwinTurboOptions

WEAK = Views(("weak",), ("weak", "weak"))
ALL_TERMS = {"ce_cond", "ce_marg", "kl_y", "ent", "align", "uniform", "task_bound", "latent_bound"}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def run(
    world: Any, batch: Batch | None = None, progress: float = 1.0, num_unlabelled: int = 100, **options: Any
) -> tuple[TwinTurbo, Any, Tensor, dict[str, Tensor]]:
    objective = TwinTurbo(TwinTurboOptions.parse(options), world.task(num_unlabelled))
    projector = world.projector()
    loss, terms = objective(projector, batch or world.batch(WEAK), progress, generator())
    return objective, projector, loss, dict(terms)


def test_terms_and_total_match_a_direct_computation(world: Any) -> None:
    batch = world.batch(WEAK)
    weights = {"w_marg": 0.4, "w_y": 1.5, "w_ent": 0.3, "w_z": 0.2}
    objective, projector, loss, terms = run(world, batch, progress=0.1, ramp=0.5, tau=0.3, **weights)
    with torch.no_grad():
        z, unlabelled_z = projector(batch.labelled[0]), projector(batch.unlabelled[0])
        q, unlabelled_q = (objective.logits(rows).softmax(1) for rows in (z, unlabelled_z))
        marginal = unlabelled_q.mean(0)
        cosine = F.normalize(unlabelled_z) @ F.normalize(batch.unlabelled[1].pooled).T / 0.3
    expected = {
        "ce_cond": -q[range(4), batch.label].log().mean(),
        "ce_marg": -marginal.log().mean(),
        "kl_y": -math.log(3) - marginal.log().mean(),
        "ent": -(unlabelled_q * unlabelled_q.log()).sum(1).mean(),
        "align": -cosine.diagonal().mean(),
        "uniform": cosine.exp().mean(1).log().mean(),
    }
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value, msg=lambda text, name=name: f"{name}: {text}")
    e = expected
    total = e["ce_cond"] + 0.2 * (
        -0.4 * e["ce_marg"] + 1.5 * e["kl_y"] + 0.3 * e["ent"] + 0.2 * (e["align"] + e["uniform"])
    )
    torch.testing.assert_close(loss.detach(), total)
    torch.testing.assert_close(terms["task_bound"], math.log(3) - e["ce_cond"])
    torch.testing.assert_close(terms["latent_bound"], -e["align"] - e["uniform"])
    assert set(terms) == ALL_TERMS


@pytest.mark.parametrize("classes", [1, 2, 1000])
@pytest.mark.parametrize(
    ("posterior", "w_critic", "w_kz"),
    list(itertools.product(["categorical", "binary", "infonce"], [0.0, 1.0], [0.0, 1.0])),
)
def test_every_variant_is_finite_at_the_edges(
    make_world: Callable[..., Any], classes: int, posterior: str, w_critic: float, w_kz: float
) -> None:
    world = make_world(classes)
    batch = world.batch(WEAK, rows=1, unlabelled_rows=1)
    objective, projector, loss, terms = run(
        world, batch, posterior=posterior, w_critic=w_critic, w_kz=w_kz, critic_hidden=8, critic_spectral=True
    )
    loss.backward()
    assert torch.isfinite(torch.stack([loss, *terms.values()])).all()
    parameters = [*objective.parameters(), *projector.parameters()]
    assert all(torch.isfinite(p.grad).all() for p in parameters if p.grad is not None)
    assert terms["task_bound"] <= math.log(classes) + 1e-5
    critics = ({"kl_c", "critic_c"} if w_critic else set()) | ({"kl_z", "critic_z"} if w_kz else set())
    assert set(terms) == ALL_TERMS | critics


def test_critics_and_projector_are_trained_against_each_other(world: Any) -> None:
    """The critics' gradient is that of their own loss; the projector's gradient has no part of it."""
    weights = {"w_critic": 1.0, "w_kz": 1.0, "w_ent": 0.0, "w_z": 0.0}
    objective, projector, loss, _ = run(world, **weights)
    loss.backward()
    silent, still, quiet, _ = run(world, progress=0.0, **weights)
    quiet.backward()
    for one, two in zip(objective.critic_parameters(), silent.critic_parameters(), strict=True):
        assert one.grad is not None
        assert one.grad.abs().max() > 0
        torch.testing.assert_close(one.grad, two.grad)
    plain, alone, only, _ = run(world, progress=0.0)
    only.backward()
    assert not plain.critic_parameters()
    for one, two in zip(still.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad)
    moved = [
        not torch.allclose(a.grad, b.grad)
        for a, b in zip(projector.parameters(), alone.parameters(), strict=True)
    ]
    assert any(moved)


def test_the_penalty_is_the_mean_squared_slope_of_the_critic() -> None:
    """Finite differences in float64, one coordinate at a time."""
    critic = Critic(3, generator(), hidden=5).double()
    real, fake = torch.rand(2, 4, 3, generator=generator(), dtype=torch.float64)
    plain, with_penalty = (adversarial("c", critic, real, fake, weight)["critic_c"] for weight in (0.0, 2.0))
    x, steps = torch.cat([real, fake]), 1e-6 * torch.eye(3, dtype=torch.float64)
    slopes = torch.stack([(critic(x + step) - critic(x - step)) / 2e-6 for step in steps], 1)
    torch.testing.assert_close(with_penalty - plain, 2 * slopes.square().sum(1).mean(), rtol=1e-5, atol=1e-8)
    with_penalty.backward()
    assert all(p.grad.abs().max() > 0 for p in critic.parameters() if p.ndim == 2)


def test_the_critic_draws_labels_from_the_prior(world: Any) -> None:
    objective = TwinTurbo(TwinTurboOptions(prior=(1.0, 0.0, 3.0)), world.task())
    drawn = sample_one_hot(objective.prior, torch.empty(20000, 3), generator())
    torch.testing.assert_close(drawn.mean(0), torch.tensor([0.25, 0.0, 0.75]), atol=0.02, rtol=0)
    assert drawn.sum(1).eq(1).all()


def test_the_task_bound_never_uses_a_critic(world: Any) -> None:
    _, _, _, closed = run(world)
    _, _, _, critic = run(world, w_critic=1.0)
    assert not torch.equal(closed["kl_y"], critic["kl_c"])
    torch.testing.assert_close(closed["kl_y"], critic["kl_y"])
    torch.testing.assert_close(closed["task_bound"], critic["task_bound"])


def test_the_marginal_remembers_and_is_saved(world: Any) -> None:
    objective = TwinTurbo(TwinTurboOptions(marginal_decay=0.6), world.task())
    projector, past = world.projector(), torch.zeros(3)
    for n in range(4):
        batch = world.batch(WEAK, seed=n)
        objective(projector, batch, 1.0, generator())
        keep = min(0.6, n / (n + 1))
        now = objective.logits(projector(batch.unlabelled[0])).softmax(1).mean(0).detach()
        past = keep * past + (1 - keep) * now
    torch.testing.assert_close(objective.log_marginal.exp(), past.unsqueeze(0))
    resumed = TwinTurbo(TwinTurboOptions(marginal_decay=0.6), world.task())
    resumed.load_state_dict(objective.state_dict())
    one, two = (o(projector, world.batch(WEAK, seed=9), 1.0, generator())[0] for o in (objective, resumed))
    assert torch.equal(one, two)


def test_evaluation_leaves_the_marginal_alone(world: Any) -> None:
    objective = TwinTurbo(TwinTurboOptions(), world.task()).eval()
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    objective(world.projector(), world.batch(WEAK), 1.0, generator())
    assert all(torch.equal(value, before[name]) for name, value in objective.state_dict().items())


@pytest.mark.parametrize("views", [Views(("weak",), ()), WEAK])
def test_without_unlabelled_rows_the_labelled_stand_in(world: Any, views: Views) -> None:
    batch = world.batch(views, unlabelled_rows=0)
    _, _, loss, terms = run(world, batch, num_unlabelled=0)
    loss.backward()
    assert all(torch.isfinite(value) for value in terms.values())
    twice = Batch(batch.labelled, batch.label, batch.labelled, torch.arange(4))
    _, _, same, _ = run(world, twice)
    torch.testing.assert_close(loss, same)


def test_reads_two_views_only_where_there_are_some(world: Any) -> None:
    full, empty = (TwinTurbo(TwinTurboOptions(), world.task(n)) for n in (100, 0))
    assert full.views(["eval", "weak"]) == WEAK
    assert full.views(["eval"]) == Views(("eval",), ("eval",))
    assert empty.views(["eval", "weak"]) == Views(("weak",), ())


def test_priors(world: Any) -> None:
    task = world.task()
    assert class_prior("uniform", task).tolist() == pytest.approx([1 / 3] * 3)
    assert class_prior("labels", task).tolist() == pytest.approx([1 / 6, 2 / 6, 3 / 6])
    assert class_prior((2.0, 0.0, 2.0), task).tolist() == [0.5, 0.0, 0.5]


@pytest.mark.parametrize("prior", [(0.5, 0.5), (1.0, -1.0, 1.0), (0.0, 0.0, 0.0)])
def test_a_prior_that_does_not_fit_is_refused(world: Any, prior: tuple[float, ...]) -> None:
    with pytest.raises(TrainError, match="expected: 3 numbers"):
        class_prior(prior, world.task())


def test_options_are_checked() -> None:
    assert TwinTurboOptions.parse({"prior": [0.2, 0.8]}).prior == (0.2, 0.8)
    with pytest.raises(ConfigError, match="w_y"):
        TwinTurboOptions.parse({"w_y": -1})


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_supervised_is_smoothed_cross_entropy(world: Any, smoothing: float) -> None:
    objective = Supervised(SupervisedOptions(label_smoothing=smoothing), world.task())
    projector, batch = world.projector(), world.batch(Views())
    loss, terms = objective(projector, batch, 0.0, generator())
    log_q = objective.logits(projector(batch.labelled[0])).log_softmax(1)
    target = (1 - smoothing) * F.one_hot(batch.label, 3) + smoothing / 3
    torch.testing.assert_close(loss, -(target * log_q).sum(1).mean())
    assert torch.equal(terms["ce_cond"], loss.detach())


@pytest.mark.parametrize("posterior", ["categorical", "binary", "infonce"])
def test_training_raises_both_bounds(world: Any, posterior: str) -> None:
    objective = TwinTurbo(TwinTurboOptions.parse({"posterior": posterior, "ramp": 0.0}), world.task())
    projector = world.projector()
    optimiser = torch.optim.Adam([*objective.parameters(), *projector.parameters()], lr=0.01)
    history = []
    for n in range(40):
        loss, terms = objective(
            projector, world.batch(WEAK, rows=12, unlabelled_rows=24, seed=n % 4), 1.0, generator()
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        history.append(terms)
    for name in ("task_bound", "latent_bound"):
        early, late = (
            torch.stack([terms[name] for terms in part]).mean() for part in (history[:4], history[-4:])
        )
        assert late > early, name
