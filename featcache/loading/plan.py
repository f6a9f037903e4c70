"""Which rows are read when: a pure function of (rows, seed, step, rank, world). No I/O and no hidden state.

The order is an index permutation seeded by (seed, epoch) (the idea of google/grain), so there is no shuffle
buffer to save: any step can be asked for at once, and resuming is asking for the next one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from featcache.errors import TrainError

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class ReadPlan:
    """An endless shuffled stream over `rows`, `batch_size` at a time on each of `world` ranks.

    Every epoch visits every row once; batches run across epoch borders, so that none is ever short. Over all
    ranks, each step takes the next `world * batch_size` rows of the stream.

    >>> plan = ReadPlan(rows=np.arange(4), batch_size=2, seed=0)
    >>> sorted(np.concatenate([plan.batch(0), plan.batch(1)]).tolist())
    [0, 1, 2, 3]
    """

    rows: Rows
    batch_size: int
    seed: int
    rank: int = 0
    world: int = 1

    def batch(self, step: int) -> Rows:
        """(batch_size,) row numbers of one step, sorted, so that a batch is read shard by shard."""
        return self.rows[self.positions(step)]

    def positions(self, step: int) -> Rows:
        """(batch_size,) places within `rows`, in the order of `batch`."""
        start = (step * self.world + self.rank) * self.batch_size
        epoch, offset = divmod(start, len(self.rows))
        taken: list[Rows] = []
        missing = self.batch_size
        while missing:
            part = permutation(len(self.rows), self.seed, epoch)[offset : offset + missing]
            taken.append(part)
            missing -= len(part)
            epoch, offset = epoch + 1, 0
        return np.sort(np.concatenate(taken))


@lru_cache(maxsize=6)
def permutation(size: int, seed: int, epoch: int) -> Rows:
    """The order of one epoch: a permutation of `range(size)` seeded by (seed, epoch)."""
    order = np.random.default_rng([seed, epoch]).permutation(size)
    order.flags.writeable = False
    return order


def choose_views(families: tuple[str, ...], names: tuple[str, ...], seed: int, step: int) -> tuple[int, ...]:
    """For each asked-for family, the index of one cached view of it, drawn by (seed, step).

    A family asked for twice gives two different views where two are cached. Raises TrainError for a family
    of which none is.

    >>> choose_views(("eval", "weak"), ("eval", "weak0", "weak1"), seed=0, step=0)[0]
    0
    """
    rng = np.random.default_rng([seed, step, len(names)])
    chosen: list[int] = []
    for family in families:
        members = [i for i, name in enumerate(names) if family_of(name) == family]
        if not members:
            raise TrainError(
                f"the objective reads `{family}` views, and the cache holds none",
                got=", ".join(names),
                hint=f"extract again with --views {family}=1",
            )
        fresh = [i for i in members if i not in chosen] or members
        chosen.append(int(rng.choice(fresh)))
    return tuple(chosen)


def choose_tokens(tokens: int, prefix: int, share: float, seed: int, step: int) -> Rows | None:
    """The positions that a step sees of so many tokens, sorted: the prefix, and a `share` of the others.

    Drawn by (seed, step), without replacement; at least one position. None where they are all kept.

    >>> choose_tokens(9, prefix=1, share=0.5, seed=0, step=0)
    array([0, 1, 3, 5, 6])
    """
    prefix = min(prefix, tokens)
    count = max(round(share * (tokens - prefix)), 0 if prefix else 1)
    if prefix + count >= tokens:
        return None
    drawn = np.random.default_rng([seed, step, tokens, 1]).permutation(tokens - prefix)[:count]
    return np.concatenate([np.arange(prefix), prefix + np.sort(drawn)])


def family_of(view: str) -> str:
    """The family a cached view belongs to.

    >>> family_of("strong1")
    'strong'
    """
    return view.rstrip("0123456789")
