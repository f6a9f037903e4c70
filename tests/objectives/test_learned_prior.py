"""The learned class prior of TwinTURBO: EM finds a shifted prior, and does not lose a class."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from featcache.batch import Views
from featcache.objectives._adversarial import em_prior
from featcache.objectives.twinturbo import TwinTurbo, TwinTurboOptions

LIKELIHOOD = np.array([[0.6, 0.2, 0.1, 0.1], [0.1, 0.6, 0.2, 0.1], [0.1, 0.1, 0.2, 0.6]])
"""p(x|y) of three classes over four values of x."""


def population(prior: list[float], trained: list[float]) -> Tensor:
    """Logits of the true q(y|x) under `trained`, for 10,000 samples whose classes have `prior`."""
    posterior = LIKELIHOOD.T * np.array(trained)
    counts = np.round(10_000 * np.array(prior) @ LIKELIHOOD).astype(int)
    return torch.from_numpy(np.repeat(np.log(posterior), counts, axis=0))


@pytest.mark.parametrize("prior", [[0.8, 0.15, 0.05], [0.1, 0.3, 0.6], [1 / 3] * 3])
@pytest.mark.parametrize("trained", [[1 / 3] * 3, [0.2, 0.2, 0.6]])
def test_em_finds_the_prior_of_a_known_joint(prior: list[float], trained: list[float]) -> None:
    logits, own = population(prior, trained), torch.tensor(trained, dtype=torch.float64)
    learned = torch.full((3,), 1 / 3, dtype=torch.float64)
    for _ in range(400):
        learned = em_prior(logits, learned, own, 1e-9)
    assert learned.tolist() == pytest.approx(prior, abs=5e-3)


@given(st.integers(0, 10**6), st.floats(0.01, 1))
def test_a_step_is_the_formula(seed: int, pull: float) -> None:
    rng = np.random.default_rng(seed)
    q = rng.dirichlet(np.ones(4), 6)
    prior, trained = rng.dirichlet(np.ones(4), 2) * 0.9 + 0.025
    expected = np.zeros(4)
    for row in q:
        ratio = [prior[y] * row[y] / trained[y] for y in range(4)]
        expected += np.array(ratio) / sum(ratio) / len(q)
    got = em_prior(torch.from_numpy(q).log(), torch.from_numpy(prior), torch.from_numpy(trained), pull)
    assert got.tolist() == pytest.approx(((1 - pull) * expected + pull / 4).tolist())
    assert got.sum().item() == pytest.approx(1)


@pytest.mark.parametrize("logits", [[50.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.1, 0.0, 0.0]])
def test_no_class_dies_out(logits: list[float]) -> None:
    """Neither if all samples are predicted as one class, nor if q is uniform or almost uniform."""
    learned = uniform = torch.full((3,), 1 / 3)
    for _ in range(2000):
        learned = em_prior(torch.tensor([logits] * 5), learned, uniform, 0.1)
    assert learned.min() >= 0.1 / 3 - 1e-6
    assert torch.isfinite(learned).all()
    if not any(logits):
        torch.testing.assert_close(learned, uniform)


def step(objective: TwinTurbo, world: Any, classes: list[int], seed: int) -> None:
    batch = world.batch(Views(("weak",), ("weak", "weak")), seed=seed)
    hidden = torch.tensor(classes)
    views = tuple(world.features(hidden, seed + 20 + i) for i in range(2))
    batch = batch._replace(unlabelled=views, unlabelled_index=torch.arange(len(hidden)))
    objective(world.projector(steps_away=0.0), batch, 1.0, torch.Generator().manual_seed(0))


def test_the_objective_learns_the_prior_of_the_unlabelled_samples(world: Any) -> None:
    objective = TwinTurbo(TwinTurboOptions(prior="learned", prior_pull=0.01), world.task())
    start = objective.prior.clone()
    objective.eval()
    step(objective, world, [0] * 9 + [1] * 2 + [2], seed=0)
    assert torch.equal(objective.prior, start)
    objective.train()
    for seed in range(40):
        step(objective, world, [0] * 9 + [1] * 2 + [2], seed)
    assert objective.prior.tolist() == pytest.approx([9 / 12, 2 / 12, 1 / 12], abs=0.05)
    assert objective.prior.sum().item() == pytest.approx(1)
    fresh = TwinTurbo(TwinTurboOptions(prior="learned"), world.task())
    fresh.load_state_dict(objective.state_dict())
    assert torch.equal(fresh.prior, objective.prior)


@pytest.mark.parametrize("prior", ["uniform", "labels", (1.0, 2.0, 3.0)])
def test_a_given_prior_stays(world: Any, prior: Any) -> None:
    objective = TwinTurbo(TwinTurboOptions(prior=prior), world.task())
    start = objective.prior.clone()
    step(objective, world, [0] * 12, seed=0)
    assert torch.equal(objective.prior, start)
