"""Every estimator against loops in numpy, its gradient against differences, and its edge cases."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from featcache.errors import ConfigError, TrainError
from featcache.mi import Bound, barber_agakov, donsker_varadhan, infonce, jensen_shannon, nwj, smile

Matrix = NDArray[np.float64]


def mine(scores: Tensor) -> Bound:
    return donsker_varadhan(scores)[0]


pytestmark = pytest.mark.usefixtures("one_thread")
ESTIMATORS: dict[str, Callable[[Tensor], Bound]] = {
    "infonce": infonce,
    "nwj": nwj,
    "donsker_varadhan": mine,
    "smile": partial(smile, tau=2.0),
    "jensen_shannon": jensen_shannon,
}
estimators = pytest.mark.parametrize("estimator", ESTIMATORS.values(), ids=ESTIMATORS.keys())
sizes, seeds, spreads = st.integers(2, 7), st.integers(0, 999), st.floats(0, 6)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some(size: int, seed: int, spread: float = 2.0) -> Tensor:
    return spread * torch.randn(size, size, generator=seeded(seed), dtype=torch.float64)


# By hand: plain sums, without a logarithm of a sum of exponentials


def rest(t: Matrix) -> list[float]:
    return [float(t[i, j]) for i in range(len(t)) for j in range(len(t)) if i != j]


def joint(t: Matrix) -> float:
    return sum(float(t[i, i]) for i in range(len(t))) / len(t)


def infonce_by_hand(t: Matrix) -> tuple[float, float]:
    ratios = [math.exp(t[i, i]) / (sum(math.exp(s) for s in t[i]) / len(t)) for i in range(len(t))]
    value = sum(map(math.log, ratios)) / len(t)
    return value, -value


def nwj_by_hand(t: Matrix) -> tuple[float, float]:
    value = joint(t) - np.mean([math.exp(s) for s in rest(t)]) / math.e
    return value, -value


def donsker_varadhan_by_hand(t: Matrix) -> tuple[float, float]:
    value = joint(t) - math.log(np.mean([math.exp(s) for s in rest(t)]))
    return value, -value


def jensen_shannon_by_hand(t: Matrix) -> tuple[float, float]:
    """A discriminator D = sigmoid(T), the loss of a GAN."""
    real = [1 / (1 + math.exp(-t[i, i])) for i in range(len(t))]
    fake = [1 / (1 + math.exp(-s)) for s in rest(t)]
    loss = -np.mean(np.log(real)) - np.mean([math.log(1 - d) for d in fake])
    return 1 + joint(t) - np.mean([math.exp(s) for s in rest(t)]), float(loss)


def smile_by_hand(t: Matrix) -> tuple[float, float]:
    clipped = [min(max(math.exp(s), math.exp(-2)), math.exp(2)) for s in rest(t)]
    return joint(t) - math.log(np.mean(clipped)), jensen_shannon_by_hand(t)[1]


@pytest.mark.parametrize("name", ESTIMATORS)
@given(size=sizes, seed=seeds, spread=spreads)
@settings(max_examples=30, deadline=None)
def test_estimate_and_loss_match_loops(name: str, size: int, seed: int, spread: float) -> None:
    scores = some(size, seed, spread)
    estimate, loss = ESTIMATORS[name](scores)
    by_hand: dict[str, Any] = globals()
    assert (estimate.item(), loss.item()) == pytest.approx(by_hand[f"{name}_by_hand"](scores.numpy()))


@given(size=st.integers(1, 7), seed=seeds)
@settings(max_examples=30, deadline=None)
def test_barber_agakov_matches_a_loop(size: int, seed: int) -> None:
    decoder, prior = some(7, seed)[0, :size], some(7, seed + 1)[0, :size]
    value = sum(q - p for q, p in zip(decoder.tolist(), prior.tolist(), strict=True)) / size
    for known in (prior, prior.mean()):
        estimate, loss = barber_agakov(decoder, known)
        assert (estimate.item(), loss.item()) == pytest.approx((value, -value))


@given(size=sizes, seed=seeds, spread=st.floats(0, 1e4))
@settings(max_examples=60, deadline=None)
def test_infonce_never_exceeds_log_b(size: int, seed: int, spread: float) -> None:
    for dtype in (torch.float64, torch.float32):
        assert infonce(some(size, seed, spread).to(dtype)).estimate.item() <= math.log(size) + 1e-6


def test_infonce_reaches_log_b() -> None:
    assert infonce(50 * torch.eye(16)).estimate.item() == pytest.approx(math.log(16))


@estimators
def test_what_says_nothing_is_worth_nothing(estimator: Callable[[Tensor], Bound]) -> None:
    silent = torch.full((5, 5), 1.0 if estimator is nwj else 0.0)
    assert estimator(silent).estimate.item() == pytest.approx(0, abs=1e-6)


@given(size=sizes, seed=seeds)
@settings(max_examples=20, deadline=None)
def test_what_a_critic_may_add(size: int, seed: int) -> None:
    """A function of x for InfoNCE, a constant for Donsker-Varadhan, which is SMILE without a clip."""
    scores = some(size, seed)
    of_x = some(size, seed + 1)[:, :1]
    torch.testing.assert_close(infonce(scores + of_x).estimate, infonce(scores).estimate)
    torch.testing.assert_close(mine(scores + 7).estimate, mine(scores).estimate)
    torch.testing.assert_close(smile(scores, math.inf).estimate, mine(scores).estimate)
    # log z <= z / e, so NWJ is never above Donsker-Varadhan for the same critic.
    assert nwj(scores).estimate <= mine(scores).estimate + 1e-9


@estimators
def test_the_order_of_the_batch_does_not_matter(estimator: Callable[[Tensor], Bound]) -> None:
    scores, order = some(6, 0), torch.tensor([3, 1, 5, 4, 0, 2])
    torch.testing.assert_close(estimator(scores[order][:, order]), estimator(scores))


# Gradients


@estimators
def test_gradients_are_those_of_differences(estimator: Callable[[Tensor], Bound]) -> None:
    scores = some(4, 1, 1.5).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: estimator(s).loss, scores)
    assert not estimator(scores).estimate.requires_grad


def test_barber_agakov_gradients_are_those_of_differences() -> None:
    decoder, prior = (some(4, seed)[0].requires_grad_() for seed in (0, 1))
    assert torch.autograd.gradcheck(lambda q, p: barber_agakov(q, p).loss, (decoder, prior))


def test_the_steep_end_of_nwj_is_smooth_and_falls() -> None:
    for top in (25.0, 31.0, 40.0):
        scores = torch.zeros(3, 3, dtype=torch.float64)
        scores[0, 1] = top
        scores.requires_grad_()
        assert torch.autograd.gradcheck(lambda s: nwj(s).loss, scores, rtol=1e-3, atol=1e-3 * math.exp(top))
    falling = [nwj(torch.full((3, 3), top)).estimate.item() for top in (20.0, 29.0, 30.9, 31.1, 40.0, 1e4)]
    assert falling == sorted(falling, reverse=True)
    assert len(set(falling)) == len(falling)


# The state of Donsker-Varadhan


@given(size=sizes, first=seeds, count=st.integers(1, 6), decay=st.floats(0, 0.99))
@settings(max_examples=40, deadline=None)
def test_the_moving_average_matches_a_loop(size: int, first: int, count: int, decay: float) -> None:
    average, expected = None, math.nan
    for step in range(count):
        scores = some(size, first + step)
        batch = float(np.mean([math.exp(s) for s in rest(scores.numpy())]))
        expected = batch if average is None else decay * expected + (1 - decay) * batch
        _, average = donsker_varadhan(scores, average, decay)
        assert average.exp().item() == pytest.approx(expected)
    assert not average.requires_grad


@given(size=sizes, seed=seeds, past=st.floats(-3, 3), decay=st.floats(0, 0.99))
@settings(max_examples=40, deadline=None)
def test_the_gradient_is_divided_by_the_moving_average(
    size: int, seed: int, past: float, decay: float
) -> None:
    scores = some(size, seed).requires_grad_()
    before = torch.tensor(past, dtype=torch.float64)
    bound, average = donsker_varadhan(scores, before, decay)
    bound.loss.backward()
    weights = scores.detach().exp() / average.exp() / (size * (size - 1))
    weights.fill_diagonal_(-1 / size)
    assert scores.grad is not None
    torch.testing.assert_close(scores.grad, weights)
    torch.testing.assert_close(bound.loss.detach(), -mine(scores).estimate)
    assert before.item() == past


def test_the_average_takes_the_bias_out_of_the_gradient() -> None:
    """With a wrong critic, the mean gradient of small batches is that of all of them as one batch."""
    t = torch.randn(4000, generator=seeded(0), dtype=torch.float64)
    truth = (t * t.exp()).mean() / t.exp().mean()
    plain, corrected, average = [], [], None
    for values in t.reshape(2000, 2):
        slope = torch.ones((), dtype=torch.float64, requires_grad=True)
        scores = slope * values.diag().flip(1)
        bound, average = donsker_varadhan(scores, average, decay=0.995)
        corrected.append(torch.autograd.grad(bound.loss, slope, retain_graph=True)[0])
        plain.append(torch.autograd.grad(mine(scores).loss, slope)[0])
    error = abs(torch.stack(corrected[500:]).mean() - truth)
    assert error < 0.5 * abs(torch.stack(plain[500:]).mean() - truth)


# Edges


@estimators
@pytest.mark.parametrize("size", [2, 9])
@pytest.mark.parametrize("extreme", ["right", "wrong", "high", "low", "mixed"])
def test_huge_scores_stay_finite(estimator: Callable[[Tensor], Bound], size: int, extreme: str) -> None:
    eye = torch.eye(size)
    scores = {
        "right": 2 * eye - 1,
        "wrong": 1 - 2 * eye,
        "high": torch.ones(size, size),
        "low": -torch.ones(size, size),
        "mixed": some(size, 0).sign().float(),
    }[extreme]
    scores = (1e4 * scores).requires_grad_()
    estimate, loss = estimator(scores)
    loss.backward()
    assert scores.grad is not None
    assert all(torch.isfinite(x).all() for x in (estimate, loss, scores.grad))


def test_a_huge_state_stays_finite() -> None:
    scores, average = (1e4 * torch.eye(3)).requires_grad_(), torch.tensor(1e4)
    for _ in range(3):
        bound, average = donsker_varadhan(scores, average)
        bound.loss.backward()
    assert scores.grad is not None
    assert all(torch.isfinite(x).all() for x in (*bound, average, scores.grad))


@estimators
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(
    estimator: Callable[[Tensor], Bound], dtype: torch.dtype
) -> None:
    half = some(64, 3).to(dtype).requires_grad_()
    bound, expected = estimator(half), estimator(half.detach().float())
    assert (bound.estimate.dtype, bound.loss.dtype) == (torch.float32, torch.float32)
    assert torch.equal(torch.stack(bound), torch.stack(expected))
    bound.loss.backward()
    assert half.grad is not None
    assert half.grad.dtype == dtype
    assert half.grad.abs().max() > 0


def test_half_precision_decoders_are_averaged_in_float32() -> None:
    decoder, prior = torch.full((3000,), 100.0).half(), torch.tensor(99.0).half()
    assert torch.equal(barber_agakov(decoder, prior).estimate, torch.tensor(1.0))


@estimators
@pytest.mark.parametrize("shape", [(), (3,), (1, 1), (0, 0), (2, 3), (2, 2, 2)])
def test_scores_that_are_no_matrix_of_pairs_are_refused(
    estimator: Callable[[Tensor], Bound], shape: tuple[int, ...]
) -> None:
    with pytest.raises(TrainError, match="scores") as caught:
        estimator(torch.zeros(shape))
    assert caught.value.got == f"shape {shape}"


@pytest.mark.parametrize("shapes", [((), ()), ((0,), ()), ((3, 1), ()), ((3,), (2,)), ((3,), (3, 1))])
def test_a_decoder_and_a_prior_that_do_not_fit_are_refused(shapes: tuple[Any, Any]) -> None:
    with pytest.raises(TrainError, match="decoder"):
        barber_agakov(*map(torch.zeros, shapes))


@pytest.mark.parametrize("decay", [-0.1, 1.0, math.nan])
def test_a_decay_that_keeps_everything_is_refused(decay: float) -> None:
    with pytest.raises(ConfigError, match="decay="):
        donsker_varadhan(torch.zeros(2, 2), decay=decay)


@pytest.mark.parametrize("tau", [0.0, -1.0, math.nan])
def test_a_clip_that_leaves_nothing_is_refused(tau: float) -> None:
    with pytest.raises(ConfigError, match="tau="):
        smile(torch.zeros(2, 2), tau)
