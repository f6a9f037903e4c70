"""Terms and families against loops, known distributions and limits."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from featcache.mi import terms
from featcache.objectives._posteriors import POSTERIORS, Posterior

NAMES = sorted(POSTERIORS)
families = pytest.mark.parametrize("family", [POSTERIORS[name] for name in NAMES], ids=NAMES)
shapes = st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(0, 999))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some(rows: int, classes: int, seed: int) -> tuple[Tensor, Tensor]:
    logits = 3 * torch.randn(rows, classes, generator=seeded(seed), dtype=torch.float64)
    return logits, torch.randint(classes, (rows,), generator=seeded(seed))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def xlogx(x: float) -> float:
    return x * math.log(x) if x > 0 else 0.0


def table_by_hand(name: str, logits: list[list[float]]) -> list[list[float]]:
    """Compute q(y|x) in plain Python: (B, C) rows."""
    weights = [[math.exp(s) for s in row] for row in logits]
    match name:
        case "categorical":
            return [[w / sum(row) for w in row] for row in weights]
        case "infonce":
            z = sum(map(sum, weights)) / len(weights)
            return [[w / z for w in row] for row in weights]
        case _:
            classes = range(len(logits[0]))
            return [
                [math.prod(sigmoid(row[k] if k == y else -row[k]) for k in classes) for y in classes]
                for row in logits
            ]


@pytest.mark.parametrize("name", NAMES)
@given(shape=shapes)
@settings(max_examples=30, deadline=None)
def test_likelihood_and_marginal_match_loops(name: str, shape: tuple[int, int, int]) -> None:
    logits, label = some(*shape)
    family, rows = POSTERIORS[name], logits.tolist()
    table = table_by_hand(name, rows)
    expected = [math.log(table[i][y]) for i, y in enumerate(label.tolist())]
    assert family.log_likelihood(logits, label).tolist() == pytest.approx(expected)
    cells = [[sigmoid(s) for s in row] for row in rows] if name == "binary" else table
    mean = [sum(column) / len(cells) for column in zip(*cells, strict=True)]
    states = [mean, [1 - m for m in mean]] if name == "binary" else [mean]
    assert family.log_marginal(logits).exp().flatten().tolist() == pytest.approx(
        [m for state in states for m in state]
    )


@pytest.mark.parametrize("name", NAMES)
@given(shape=shapes)
@settings(max_examples=30, deadline=None)
def test_entropy_matches_loops(name: str, shape: tuple[int, int, int]) -> None:
    logits, _ = some(*shape)
    expected = []
    for row, q in zip(logits.tolist(), table_by_hand("categorical", logits.tolist()), strict=True):
        if name == "binary":
            expected.append(-sum(xlogx(sigmoid(s)) + xlogx(sigmoid(-s)) for s in row))
        else:
            expected.append(-sum(map(xlogx, q)))
    assert POSTERIORS[name].entropy(logits).tolist() == pytest.approx(expected, abs=1e-9)


@families
@given(shape=shapes)
@settings(max_examples=20, deadline=None)
def test_the_marginal_terms_telescope_to_the_entropy_of_the_prior(
    family: Posterior, shape: tuple[int, int, int]
) -> None:
    logits, _ = some(*shape)
    prior = torch.rand(shape[1], generator=seeded(shape[2] + 1), dtype=torch.float64)
    prior /= prior.sum()
    weights, log_marginal = family.state_weights(prior), family.log_marginal(logits)
    ce_marg = terms.marginal_cross_entropy(weights, log_marginal)
    kl_y = terms.marginal_kl(prior, weights, log_marginal)
    assert kl_y.item() >= -1e-9
    assert (ce_marg - kl_y).item() == pytest.approx(-sum(map(xlogx, prior.tolist())))


def test_closed_forms() -> None:
    third = torch.full((3,), 1 / 3)
    assert terms.entropy(third).item() == pytest.approx(math.log(3))
    assert terms.entropy(torch.tensor([1.0, 0.0])).item() == 0
    flat = torch.zeros(4, 3)
    categorical = POSTERIORS["categorical"]
    assert categorical.entropy(flat).tolist() == pytest.approx([math.log(3)] * 4)
    same = terms.marginal_kl(third, categorical.state_weights(third), categorical.log_marginal(flat))
    assert same.item() == pytest.approx(0, abs=1e-6)
    p, q = torch.tensor([0.75, 0.25]), torch.tensor([[0.5, 0.5]])
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert terms.marginal_kl(p, p.unsqueeze(0), q.log()).item() == pytest.approx(expected)
    assert terms.critic_loss(torch.zeros(3), torch.zeros(5)).item() == pytest.approx(math.log(2))


@families
def test_term_gradients_are_those_of_finite_differences(family: Posterior) -> None:
    logits, label = some(4, 3, 0)
    weights = family.state_weights(torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64))
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: family.log_likelihood(s, label), logits)
    assert torch.autograd.gradcheck(family.entropy, logits)
    assert torch.autograd.gradcheck(
        lambda s: terms.marginal_cross_entropy(weights, family.log_marginal(s)), logits
    )


def test_latent_and_critic_gradients_are_those_of_finite_differences() -> None:
    h, target = (torch.randn(4, 3, generator=seeded(s), dtype=torch.float64) for s in (0, 1))
    h.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: terms.align(x, target, 0.5), h)
    assert torch.autograd.gradcheck(lambda x: terms.uniform(x, target, 0.5), h)
    assert torch.autograd.gradcheck(lambda x: terms.critic_loss(x[:, 0], x[:, 1]), h)
    assert torch.autograd.gradcheck(lambda x: terms.critic_kl(x[:, 0]), h)


@families
@pytest.mark.parametrize("classes", [1, 2, 1000])
@pytest.mark.parametrize("size", [0.0, 100.0, 1e4])
def test_finite_at_the_edges(family: Posterior, classes: int, size: float) -> None:
    """One sample, confidently wrong, in float32."""
    logits = torch.full((1, classes), -size)
    logits[0, 0] = size
    logits.requires_grad_()
    prior = torch.full((classes,), 1 / classes)
    label = torch.tensor([classes - 1])
    log_marginal = family.log_marginal(logits)
    values = torch.stack(
        [
            family.log_likelihood(logits, label).sum(),
            family.entropy(logits).sum(),
            terms.marginal_cross_entropy(family.state_weights(prior), log_marginal),
            terms.marginal_kl(prior, family.state_weights(prior), log_marginal),
        ]
    )
    values.sum().backward()
    assert torch.isfinite(values).all()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


@families
def test_batch_order_does_not_matter(family: Posterior) -> None:
    logits, label = some(5, 4, 2)
    order = torch.tensor([3, 1, 4, 0, 2])
    torch.testing.assert_close(
        family.log_likelihood(logits[order], label[order]), family.log_likelihood(logits, label)[order]
    )
    torch.testing.assert_close(family.log_marginal(logits[order]), family.log_marginal(logits))


@given(shape=st.tuples(st.integers(1, 6), st.integers(1, 4), st.integers(0, 999)), tau=st.floats(0.05, 2))
@settings(max_examples=30, deadline=None)
def test_latent_terms_match_loops(shape: tuple[int, int, int], tau: float) -> None:
    rows, dim, seed = shape
    h, target = (torch.randn(rows, dim, generator=seeded(seed + s), dtype=torch.float64) for s in (0, 1))

    def cosine(a: list[float], b: list[float]) -> float:
        return sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))

    left, right = h.tolist(), target.tolist()
    positives = [cosine(a, b) / tau for a, b in zip(left, right, strict=True)]
    logs = [math.log(sum(math.exp(cosine(a, b) / tau) for b in right) / rows) for a in left]
    align, uniform = terms.align(h, target, tau).item(), terms.uniform(h, target, tau).item()
    assert align == pytest.approx(-sum(positives) / rows, abs=1e-9)
    assert uniform == pytest.approx(sum(logs) / rows, abs=1e-9)
    assert -(align + uniform) <= math.log(rows) + 1e-9


# Moving marginal


@given(values=st.lists(st.floats(1e-6, 1), min_size=1, max_size=6), decay=st.floats(0, 0.99))
def test_the_moving_mean_matches_a_loop(values: list[float], decay: float) -> None:
    past, expected = torch.zeros((), dtype=torch.float64), 0.0
    for n, value in enumerate(values):
        keep = min(decay, n / (n + 1))
        now = torch.tensor(value, dtype=torch.float64).log()
        past = terms.moving_log_mean(now, past, torch.tensor(keep, dtype=torch.float64))
        expected = keep * expected + (1 - keep) * value
    assert past.exp().item() == pytest.approx(expected)


def test_the_moving_mean_passes_the_gradient_of_the_long_batch() -> None:
    now = torch.tensor(0.2, dtype=torch.float64).log().requires_grad_()
    past, keep = torch.tensor(0.6, dtype=torch.float64).log(), torch.tensor(0.75, dtype=torch.float64)
    terms.moving_log_mean(now, past, keep).backward()
    assert now.grad is not None
    assert now.grad.item() == pytest.approx(0.2 / (0.75 * 0.6 + 0.25 * 0.2))


# Known mutual information


def joint(sharpness: float, seed: int, inputs: int = 12, classes: int = 4) -> Tensor:
    """A joint p(x, y) over a finite alphabet, (X, C), with uneven inputs and classes."""
    logits = sharpness * torch.randn(inputs, classes, generator=seeded(seed), dtype=torch.float64)
    weight = torch.rand(inputs, 1, generator=seeded(seed), dtype=torch.float64)
    return weight / weight.sum() * logits.softmax(dim=1)


def information(p: Tensor) -> float:
    independent = p.sum(1, keepdim=True) * p.sum(0, keepdim=True)
    return float(torch.xlogy(p, p / independent).sum())


def task_bound(family: Posterior, logits: Tensor, p: Tensor, n: int, seed: int) -> float:
    """The bound from n labelled and n unlabelled draws of p(x, y), for logits given per input."""
    draws = torch.multinomial(p.flatten(), n, replacement=True, generator=seeded(seed))
    x, y = draws // p.shape[1], draws % p.shape[1]
    unlabelled = torch.multinomial(p.sum(1), n, replacement=True, generator=seeded(seed + 1))
    prior = p.sum(0)
    weights, log_marginal = family.state_weights(prior), family.log_marginal(logits[unlabelled])
    ce_marg = terms.marginal_cross_entropy(weights, log_marginal)
    bound = family.log_likelihood(logits[x], y).mean() + ce_marg
    return float(bound - terms.marginal_kl(prior, weights, log_marginal))


@families
@pytest.mark.parametrize("sharpness", [0.5, 2.0, 8.0])
@pytest.mark.parametrize("error", [0.0, 0.3, 3.0])
def test_the_task_bound_stays_below_the_information(
    family: Posterior, sharpness: float, error: float
) -> None:
    n, tolerance = 20000, 0.05
    for seed in range(3):
        p = joint(sharpness, seed)
        posterior = (p / p.sum(1, keepdim=True)).clamp(min=1e-12)
        noise = torch.randn(p.shape, generator=seeded(seed + 7), dtype=torch.float64)
        for logits in (posterior.log() + error * noise, torch.logit(posterior, eps=1e-9) + error * noise):
            bound = task_bound(family, logits, p, n, seed)
            assert bound <= information(p) + tolerance
            assert bound <= math.log(p.shape[1])


@pytest.mark.parametrize("name", ["categorical", "infonce"])
@pytest.mark.parametrize("sharpness", [0.5, 2.0, 8.0])
def test_the_task_bound_is_tight_for_the_true_posterior(name: str, sharpness: float) -> None:
    p = joint(sharpness, seed=1)
    posterior = p / p.sum(1, keepdim=True)
    assert task_bound(POSTERIORS[name], posterior.log(), p, 50000, 0) == pytest.approx(
        information(p), abs=0.02
    )


@families
def test_every_family_is_tight_for_a_certain_posterior(family: Posterior) -> None:
    p = torch.eye(4, dtype=torch.float64).repeat(3, 1) / 12
    logits = 60 * (p * 12) - 30
    assert task_bound(family, logits, p, 50000, 0) == pytest.approx(math.log(4), abs=0.01)


def test_the_latent_bound_stays_below_the_information_of_gaussians() -> None:
    dim, batch = 6, 128
    estimates = []
    for rho in (0.0, 0.5, 0.9, 0.999):
        z = torch.randn(20, batch, dim, generator=seeded(0), dtype=torch.float64)
        noise = torch.randn(20, batch, dim, generator=seeded(1), dtype=torch.float64)
        frozen = rho * z + math.sqrt(1 - rho**2) * noise
        pairs = zip(z, frozen, strict=True)
        each = [-(terms.align(a, b, 0.3) + terms.uniform(a, b, 0.3)).item() for a, b in pairs]
        assert max(each) <= math.log(batch)
        estimates.append(float(np.mean(each)))
        assert estimates[-1] <= -dim / 2 * math.log(1 - rho**2) + 0.05
    assert all(low < high for low, high in pairwise(estimates))


@pytest.mark.parametrize("kappa", [1.0, 3.0])
def test_the_latent_bound_is_tight_where_its_model_is_true(kappa: float) -> None:
    """Angles with von Mises noise: I = kappa I1(kappa)/I0(kappa) - log I0(kappa)."""
    rng = np.random.default_rng(0)
    angle = rng.uniform(-np.pi, np.pi, 1500)
    near = angle + rng.vonmises(0.0, kappa, angle.shape)
    z, frozen = (torch.tensor(np.stack([np.cos(a), np.sin(a)], axis=1)) for a in (angle, near))
    grid = np.linspace(-np.pi, np.pi, 20000, endpoint=False)
    bessel1 = float(np.mean(np.cos(grid) * np.exp(kappa * np.cos(grid))))
    truth = kappa * bessel1 / float(np.i0(kappa)) - math.log(float(np.i0(kappa)))
    estimate = -(terms.align(z, frozen, 1 / kappa) + terms.uniform(z, frozen, 1 / kappa)).item()
    assert estimate == pytest.approx(truth, abs=0.05)
