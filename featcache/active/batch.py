"""Draw the rows to look at, and choose a batch of them."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from featcache.active.coverage import cover, same_as
from featcache.active.space import Rows, Vectors, draw

Strategy = Literal["auto", "cover", "random"]
STRATEGIES: tuple[str, ...] = get_args(Strategy)
CANDIDATES, REFERENCE = 5_000, 2_000
"""Most rows to choose from, and most rows to cover. More are drawn at random to these numbers."""


class Rowset(NamedTuple):
    """Sorted row numbers of a split."""

    candidates: Rows
    reference: Rows


class Choice(NamedTuple):
    """Rows to label, the most useful first."""

    rows: Rows
    share: NDArray[np.float64]
    """(k,) the part of all samples, weighted by their uncertainty, that a row adds; NaN at random."""
    chosen_by: str
    """`cover` or `cover uncertain`; empty at random."""


def draw_rows(readable: Rows, labelled: Rows, rng: np.random.Generator) -> Rowset:
    """Draw the candidates among the readable rows without a label, and the reference among all of them.

    >>> draw_rows(np.arange(4), np.array([2]), np.random.default_rng(0)).candidates
    array([0, 1, 3])
    """
    return Rowset(draw(np.setdiff1d(readable, labelled), CANDIDATES, rng), draw(readable, REFERENCE, rng))


def margin_uncertainty(log_probs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return 1 - (largest - second largest probability) of (N, C) log-probabilities: 0 is sure, 1 is torn.

    >>> margin_uncertainty(np.log([[0.5, 0.5, 1e-9], [0.7, 0.2, 0.1]])).round(3).tolist()
    [1.0, 0.5]
    """
    top = np.sort(np.exp(log_probs), axis=1)[:, -2:]
    return np.asarray(1 - (top[:, -1] - top[:, 0]) if top.shape[1] > 1 else np.zeros(len(top)))


def choose(
    rows: Rowset,
    vectors: tuple[Vectors, Vectors, Vectors],
    count: int,
    strategy: Strategy,
    rng: np.random.Generator,
    *,
    uncertainty: NDArray[np.float64] | None = None,
) -> Choice:
    """Choose at most `count` candidates; fewer if the others are near-identical to these or to labelled rows.

    `vectors` are the directions of the candidates, of the reference and of the labelled rows. `auto` covers
    the reference, weighted by the `uncertainty` (R,) of a classifier if there is one. `cover` never weights.
    """
    candidates, reference, labelled = vectors
    if strategy == "random":
        taken = _at_random(candidates, labelled, count, rng)
        return Choice(rows.candidates[taken], np.full(len(taken), np.nan), "")
    weight = uncertainty if strategy == "auto" else None
    batch = cover(reference, candidates, labelled, count, weight=weight)
    how = "cover" if weight is None else "cover uncertain"
    return Choice(rows.candidates[batch.chosen], batch.share, how)


def _at_random(candidates: Vectors, labelled: Vectors, count: int, rng: np.random.Generator) -> Rows:
    taken: list[int] = []
    for position in rng.permutation(len(candidates)):
        if len(taken) == count:
            break
        sample = candidates[position : position + 1]
        if not (same_as(sample, labelled)[0] or same_as(sample, candidates[taken])[0]):
            taken.append(int(position))
    return np.array(taken, np.int64)
