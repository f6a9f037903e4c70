"""The estimators on correlated Gaussians, where I = -d/2 log(1 - rho^2) is known."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from featcache.mi import Bound, barber_agakov, donsker_varadhan, infonce, jensen_shannon, nwj, smile

pytestmark = pytest.mark.usefixtures("one_thread")
BATCH, BATCHES = 64, 300
CASES = [(1, 0.5), (1, 0.95), (5, 0.3), (5, 0.6), (20, 0.3)]
cases = pytest.mark.parametrize(("dim", "rho"), CASES)
LOWER: dict[str, Callable[[Tensor], Bound]] = {
    "infonce": infonce,
    "nwj": lambda scores: nwj(scores + 1),
    "jensen_shannon": jensen_shannon,
    "donsker_varadhan": lambda scores: donsker_varadhan(scores)[0],
}


class Reading(NamedTuple):
    """The mean over batches, and its standard error."""

    mean: float
    error: float


def information(dim: int, rho: float) -> float:
    return -dim / 2 * math.log(1 - rho**2)


def pairs(dim: int, rho: float, seed: int, size: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x, noise = torch.randn(2, size, dim, generator=generator, dtype=torch.float64)
    return x, rho * x + math.sqrt(1 - rho**2) * noise


def log_ratio(x: Tensor, y: Tensor, rho: float) -> Tensor:
    """log p(y_j|x_i) - log p(y_j), computed from the two normal densities."""
    given = (y[None] - rho * x[:, None]).square() / (1 - rho**2)
    return ((y[None].square() - given) / 2 - math.log(1 - rho**2) / 2).sum(2)


def read(
    estimator: Callable[[Tensor], Bound],
    dim: int,
    rho: float,
    critic: Callable[[Tensor], Tensor] = lambda ratio: ratio,
    size: int = BATCH,
    batches: int = BATCHES,
) -> Reading:
    values = []
    for seed in range(batches):
        scores = critic(log_ratio(*pairs(dim, rho, seed, size), rho))
        values.append(estimator(scores).estimate)
    found = torch.stack(values)
    return Reading(found.mean().item(), (found.std() / math.sqrt(batches)).item())


@cases
@pytest.mark.parametrize("name", ["infonce", "nwj", "jensen_shannon"])
def test_lower_bounds_stay_below_the_truth_and_come_close(name: str, dim: int, rho: float) -> None:
    found, truth = read(LOWER[name], dim, rho), information(dim, rho)
    assert found.mean <= truth + 4 * found.error
    # NWJ is unbiased; InfoNCE has a small bias for a finite batch.
    assert found.mean >= truth - 4 * found.error - (0.1 * truth if name == "infonce" else 0)


@cases
def test_donsker_varadhan_comes_close_from_above(dim: int, rho: float) -> None:
    """The log of a mean of few values is too small; with more values the error shrinks."""
    found, truth = read(LOWER["donsker_varadhan"], dim, rho), information(dim, rho)
    assert found.mean == pytest.approx(truth, abs=4 * found.error + 0.02)
    assert found.mean >= read(LOWER["nwj"], dim, rho).mean


@cases
def test_smile_comes_close_where_nothing_is_clipped_much(dim: int, rho: float) -> None:
    found, truth = read(smile, dim, rho), information(dim, rho)
    assert found.mean == pytest.approx(truth, abs=4 * found.error + 0.03)


@pytest.mark.parametrize("name", LOWER)
@pytest.mark.parametrize("dim", [1, 20])
def test_the_independent_share_nothing(name: str, dim: int) -> None:
    assert read(LOWER[name], dim, 0.0, batches=3).mean == pytest.approx(0, abs=1e-9)
    # A critic that sees a dependence where there is none lowers the bound.
    generator = torch.Generator().manual_seed(0)

    def mirage(ratio: Tensor) -> Tensor:
        return ratio + 0.3 * torch.randn(ratio.shape, generator=generator, dtype=ratio.dtype)

    assert read(LOWER[name], dim, 0.0, critic=mirage).mean < 0


@pytest.mark.parametrize("name", ["infonce", "nwj", "jensen_shannon"])
@pytest.mark.parametrize("wrong", [lambda r: 0.4 * r, lambda r: 1.6 * r, lambda r: r - 0.5, lambda r: -r])
def test_a_wrong_critic_only_lowers_a_bound(name: str, wrong: Callable[[Tensor], Tensor]) -> None:
    truth = information(1, 0.7)
    found, best = read(LOWER[name], 1, 0.7, critic=wrong), read(LOWER[name], 1, 0.7)
    assert found.mean <= truth + 4 * found.error
    assert found.mean <= best.mean + 1e-9


def test_infonce_rises_with_the_batch_up_to_log_b() -> None:
    truth = information(5, 0.9)
    found = [read(infonce, 5, 0.9, size=size, batches=100).mean for size in (8, 32, 128)]
    assert found == sorted(found)
    assert all(mean <= math.log(size) for mean, size in zip(found, (8, 32, 128), strict=True))
    assert found[-1] < truth
    assert read(infonce, 20, 0.99, size=8, batches=20).mean == pytest.approx(math.log(8), abs=1e-6)


@pytest.mark.parametrize(("dim", "rho"), [(1, 0.5), (1, 0.8), (5, 0.4)])
def test_the_spread_of_the_ratio_grows_exponentially(dim: int, rho: float) -> None:
    """Var_q r = E_p r - 1 = (1 - rho^2)^-d - 1 >= exp(I) - 1, the numerator over n in the docstrings."""
    ratio = log_ratio(*pairs(dim, rho, 0, 1000), rho).exp()
    known = (1 - rho**2) ** -dim - 1
    rest = ratio[~torch.eye(len(ratio), dtype=torch.bool)]
    assert rest.mean().item() == pytest.approx(1, abs=0.05)
    assert rest.var().item() == pytest.approx(known, rel=0.3)
    assert known >= math.exp(information(dim, rho)) - 1


def test_much_information_breaks_what_averages_exponentials() -> None:
    """d = 20, rho = 0.99, the true ratio: the case that docs/mi.md warns about."""
    truth, few = information(20, 0.99), {"size": 128, "batches": 20}
    assert read(LOWER["nwj"], 20, 0.99, **few).mean == pytest.approx(truth + 1, abs=1)
    assert read(LOWER["donsker_varadhan"], 20, 0.99, **few).mean > truth + 50
    assert read(smile, 20, 0.99, **few).mean == pytest.approx(truth + 5, abs=1)


@pytest.mark.parametrize(("dim", "rho"), [(1, 0.5), (5, 0.9), (20, 0.99)])
def test_barber_agakov_is_exact_for_the_true_decoder_and_below_for_others(dim: int, rho: float) -> None:
    x, y = pairs(dim, rho, 0, 50000)
    entropy, truth = dim / 2 * math.log(2 * math.pi * math.e), information(dim, rho)
    prior = -(x.square().sum(1) + dim * math.log(2 * math.pi)) / 2

    def decoder(slope: float, variance: float) -> Tensor:
        squares = (x - slope * y).square().sum(1) / variance
        return -(squares + dim * math.log(2 * math.pi * variance)) / 2

    best = decoder(rho, 1 - rho**2)
    tolerance = 4 * best.std().item() / math.sqrt(len(x))
    for known in (prior, torch.tensor(-entropy, dtype=torch.float64)):
        assert barber_agakov(best, known).estimate.item() == pytest.approx(truth, abs=2 * tolerance)
        for slope, variance in ((0.8 * rho, 1 - rho**2), (rho, 1.0), (rho, 0.5 * (1 - rho**2))):
            assert barber_agakov(decoder(slope, variance), known).estimate.item() < truth


@pytest.mark.parametrize("name", ["infonce", "nwj", "donsker_varadhan", "jensen_shannon", "smile"])
def test_the_loss_finds_the_critic(name: str) -> None:
    """T = a x y - b (x^2 + y^2) + c, trained from zero, gives nearly all of I on new batches."""
    rho, truth = 0.8, information(1, 0.8)
    estimators = LOWER | {"smile": smile}
    a, b, c = (torch.zeros((), dtype=torch.float64, requires_grad=True) for _ in range(3))
    optimizer, average = torch.optim.Adam([a, b, c], lr=0.03), None

    def scores(seed: int) -> Tensor:
        x, y = pairs(1, rho, seed, 256)
        return a * (x @ y.T) - b * (x.square() + y.square().T) + c

    for step in range(250):
        optimizer.zero_grad()
        if name == "donsker_varadhan":
            bound, average = donsker_varadhan(scores(step), average)
        else:
            bound = estimators[name](scores(step))
        bound.loss.backward()
        optimizer.step()
    with torch.no_grad():
        found = torch.stack([estimators[name](scores(1000 + seed)).estimate for seed in range(50)])
    assert found.mean().item() == pytest.approx(truth, abs=0.1)
    assert a.item() == pytest.approx(rho / (1 - rho**2), rel=0.3)
