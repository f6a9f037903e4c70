"""Compare estimators of mutual information on correlated Gaussians with I = -d/2 log(1 - rho^2).

    python -m benchmarks.mi [--smoke] [--json FILE] [--seed N]

x and y have d coordinates, and each pair of coordinates has the correlation rho. The first table uses the
true log density ratio as the score (for Barber-Agakov, the true decoder); its standard error is over batches.
The second table uses trained critics; its standard error is over critics. A trained score is the inner
product of two small perceptrons, of x and of y. The decoder is a Gaussian whose mean and width are a
perceptron of y. The critics of all correlations are trained in parallel.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from benchmarks import common
from featcache.mi import Bound, barber_agakov, donsker_varadhan, infonce, jensen_shannon, nwj, smile

BATCH, HIDDEN, EMBED, RATE = 128, 64, 32, 1e-3
CHUNK = 50
"""Batches scored at once."""
DIMS = (1, 5, 20)
RHOS = (0.0, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95, 0.99)
SCORED: dict[str, Callable[[Tensor], Bound]] = {
    "InfoNCE": infonce,
    # A score stands for the log ratio; the critic of NWJ is one more.
    "NWJ": lambda scores: nwj(scores + 1),
    "DV (MINE)": lambda scores: donsker_varadhan(scores)[0],
    "SMILE": smile,
    "JSD": jensen_shannon,
}
NAMES = (*SCORED, "Barber-Agakov")
TRAINED = {name: (name,) for name in NAMES if name != "SMILE"} | {"JSD": ("JSD", "SMILE")}
"""By whose loss a critic is trained, and who reads it: SMILE's loss is that of JSD."""
Values = dict[str, Tensor]


class Size(NamedTuple):
    """Batches with the true ratio; trained critics, their steps, and the batches to read each with."""

    optimal: int
    critics: int
    steps: int
    batches: int


FULL, SMOKE = Size(optimal=1000, critics=5, steps=500, batches=100), Size(4, 2, 5, 2)


def information(dim: int, rho: float) -> float:
    """Return I(X;Y) in nats."""
    return -dim / 2 * math.log1p(-(rho**2))


def draw(rho: Tensor, dim: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw a batch of pairs for each of (N,) correlations: x and y, (N, BATCH, dim)."""
    x, noise = torch.randn(2, len(rho), BATCH, dim, generator=generator, dtype=rho.dtype)
    rho = rho[:, None, None]
    return x, rho * x + (1 - rho**2).sqrt() * noise


def log_ratio(x: Tensor, y: Tensor, rho: Tensor) -> Tensor:
    """Return log p(x, y) / p(x) p(y) of every x with every y: (N, BATCH, BATCH)."""
    rho = rho[:, None, None]
    squares = x.square().sum(2)[:, :, None] + y.square().sum(2)[:, None, :]
    exponent = (rho * (x @ y.mT) - rho**2 / 2 * squares) / (1 - rho**2)
    return exponent - x.shape[2] / 2 * torch.log1p(-(rho**2))


def log_normal(x: Tensor, mean: Tensor, log_width: Tensor) -> Tensor:
    """Return the log density of independent normal coordinates, summed over the last dimension."""
    standard = (x - mean) * (-log_width).exp()
    return -(standard.square() / 2 + log_width + math.log(2 * math.pi) / 2).sum(dim=-1)


def prior(x: Tensor) -> Tensor:
    """Return log p(x) of a standard normal x."""
    return log_normal(x, torch.zeros_like(x), torch.zeros_like(x))


def optimal(dim: int, rho: float, size: Size, generator: torch.Generator) -> Values:
    """Return the estimates of every batch, by name, at the true density ratio and decoder: (optimal,)."""
    found: dict[str, list[Tensor]] = {name: [] for name in NAMES}
    log_width = torch.tensor(math.log1p(-(rho**2)) / 2, dtype=torch.float64)
    for start in range(0, size.optimal, CHUNK):
        rhos = torch.full((min(CHUNK, size.optimal - start),), rho, dtype=torch.float64)
        x, y = draw(rhos, dim, generator)
        scores = log_ratio(x, y, rhos)
        for name, read in SCORED.items():
            found[name].append(vmap(read)(scores).estimate)
        found["Barber-Agakov"].append(
            vmap(barber_agakov)(log_normal(x, rho * y, log_width), prior(x)).estimate
        )
    return {name: torch.cat(values) for name, values in found.items()}


def perceptrons(count: int, widths: tuple[int, ...], generator: torch.Generator) -> list[Tensor]:
    """Make alternating weights and biases of `count` networks."""
    parameters = []
    for fan_in, fan_out in pairwise(widths):
        weight = torch.randn(count, fan_in, fan_out, generator=generator) * (2 / (fan_in + fan_out)) ** 0.5
        parameters += [weight.requires_grad_(), torch.zeros(count, 1, fan_out, requires_grad=True)]
    return parameters


def forward(parameters: list[Tensor], x: Tensor) -> Tensor:
    """Apply N networks to (N, B, d), each to its own row of batches."""
    *hidden, last = zip(parameters[::2], parameters[1::2], strict=True)
    for weight, bias in hidden:
        x = torch.baddbmm(bias, x, weight).relu()
    return torch.baddbmm(last[1], x, last[0])


class Networks:
    """Separable critics or Gaussian decoders, one for each of (N,) correlations, and their optimiser."""

    def __init__(self, rho: Tensor, dim: int, generator: torch.Generator) -> None:
        self.rho, self.dim, self.generator = rho, dim, generator
        widths = (dim, HIDDEN, HIDDEN)
        self.of_x = perceptrons(len(rho), (*widths, EMBED), generator)
        self.of_y = perceptrons(len(rho), (*widths, EMBED), generator)
        self.decoder = perceptrons(len(rho), (*widths, 2 * dim), generator)

    def scores(self) -> Tensor:
        """Score a new batch: (N, BATCH, BATCH)."""
        x, y = draw(self.rho, self.dim, self.generator)
        return forward(self.of_x, x) @ forward(self.of_y, y).mT

    def decode(self) -> Bound:
        """Estimate Barber-Agakov on a new batch."""
        x, y = draw(self.rho, self.dim, self.generator)
        mean, log_width = forward(self.decoder, y).chunk(2, dim=2)
        bound: Bound = vmap(barber_agakov)(log_normal(x, mean, log_width), prior(x))
        return bound

    def train(self, losses: Iterator[Tensor], steps: int) -> None:
        """Follow the losses, (N,) each; one network's loss has no gradient for another."""
        optimizer = torch.optim.Adam([*self.of_x, *self.of_y, *self.decoder], lr=RATE)
        for _ in range(steps):
            optimizer.zero_grad()
            torch.autograd.backward(next(losses).sum())
            optimizer.step()


def read(networks: Networks, readers: tuple[str, ...]) -> dict[str, Bound]:
    """Return the (N,) values of each reader on one new batch."""
    if readers == ("Barber-Agakov",):
        return {"Barber-Agakov": networks.decode()}
    scores = networks.scores()
    return {name: vmap(SCORED[name])(scores) for name in readers}


def losses(networks: Networks, name: str) -> Iterator[Tensor]:
    """Yield the loss of one estimator on new batches, without end; only MINE's has a state."""
    average = None
    while name == "DV (MINE)":
        step = vmap(donsker_varadhan, in_dims=(0, None if average is None else 0))
        bound, average = step(networks.scores(), average)
        yield bound.loss
    while True:
        yield read(networks, (name,))[name].loss


def trained(dim: int, size: Size, generator: torch.Generator) -> Values:
    """Return the mean over new batches of every trained critic, by name: (rhos, critics)."""
    rho = torch.tensor(RHOS).repeat_interleave(size.critics)
    found: Values = {}
    for name, readers in TRAINED.items():
        networks = Networks(rho, dim, generator)
        networks.train(losses(networks, name), size.steps)
        with torch.no_grad():
            batches = [read(networks, readers) for _ in range(size.batches)]
        for reader in readers:
            mean = torch.stack([batch[reader].estimate for batch in batches]).double().mean(0)
            found[reader] = mean.reshape(len(RHOS), size.critics)
    return found


def rows(size: Size, seed: int) -> list[dict[str, Any]]:
    """Measure mean and standard error of every estimator in every case, at the true ratio and trained."""
    table = []
    for dim in DIMS:
        generator = torch.Generator().manual_seed(seed)
        learned = trained(dim, size, generator)
        for place, rho in enumerate(RHOS):
            case = {"d": dim, "rho": rho, "I": information(dim, rho)}
            best = optimal(dim, rho, size, generator)
            for name in NAMES:
                for critic, values in (("true", best[name]), ("trained", learned[name][place])):
                    error = float(values.std()) / len(values) ** 0.5
                    found = {
                        "critic": critic,
                        "estimator": name,
                        "mean": float(values.mean()),
                        "error": error,
                    }
                    table.append(case | found)
    return table


def number(value: float) -> str:
    """Format with two decimals, or with two digits if a bound is very low."""
    return f"{value:z.2f}" if abs(value) < 1000 else f"{value:.1e}"


def markdown(table: list[dict[str, Any]], critic: str) -> str:
    """Return a table with a line for each case and a column for each estimator."""
    lines = [f"| d | rho | I | {' | '.join(NAMES)} |", "| --- " * (3 + len(NAMES)) + "|"]
    for dim in DIMS:
        for rho in RHOS:
            cells = [
                f"{number(row['mean'])} ± {number(row['error'])}"
                for row in table
                if (row["critic"], row["d"], row["rho"]) == (critic, dim, rho)
            ]
            lines.append(f"| {dim} | {rho:g} | {information(dim, rho):.2f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Print two Markdown tables, and write their rows as JSON where asked."""
    parser = common.arguments(__doc__)
    parser.add_argument("--seed", type=int, default=0, help="of all draws and critics [default: 0]")
    args = parser.parse_args()
    size = SMOKE if args.smoke else FULL
    torch.set_num_threads(1)
    start = time.process_time()
    table = rows(size, args.seed)
    seconds = time.process_time() - start
    print(f"seed {args.seed}, {seconds:.0f} s of one CPU; {common.machine()}")
    print(f"batches of {BATCH}: log B = {math.log(BATCH):.2f}; nats, mean ± standard error\n")
    print(f"The true log density ratio, {size.optimal} batches:\n\n{markdown(table, 'true')}\n")
    print(f"{size.critics} critics of {size.steps} steps, {size.batches} batches each:\n")
    print(markdown(table, "trained"))
    common.save(table, args.json)


if __name__ == "__main__":
    main()
