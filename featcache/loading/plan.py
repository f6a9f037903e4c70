"""Plan which rows to read at which step: pure functions of (rows, seed, step), without I/O or state.

The order is a permutation of indices seeded by (seed, epoch), an idea of google/grain. So there is no shuffle
buffer to save: any step can be computed directly, and a resumed training computes its next step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from featcache.errors import TrainError, option

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class ReadPlan:
    """An endless shuffled stream over `rows`, `batch_size` at a time.

    Every epoch visits every row once. A batch may span two epochs, so that none is short.

    >>> plan = ReadPlan(rows=np.arange(4), batch_size=2, seed=0)
    >>> sorted(np.concatenate([plan.batch(0), plan.batch(1)]).tolist())
    [0, 1, 2, 3]
    """

    rows: Rows
    batch_size: int
    seed: int

    def batch(self, step: int) -> Rows:
        """Return the (batch_size,) row numbers of one step, sorted, as reading shards requires."""
        return self.rows[self.positions(step)]

    def positions(self, step: int) -> Rows:
        """Return the (batch_size,) positions within `rows`, in the order of `batch`."""
        epoch, offset = divmod(step * self.batch_size, len(self.rows))
        taken: list[Rows] = []
        missing = self.batch_size
        while missing:
            part = permutation(len(self.rows), self.seed, epoch)[offset : offset + missing]
            taken.append(part)
            missing -= len(part)
            epoch, offset = epoch + 1, 0
        return np.sort(np.concatenate(taken))


@dataclass(frozen=True)
class EpochPlan:
    """One epoch over `rows`, `batch_size` at a time; the last batch may be shorter.

    The order is that of `rows`, or `shuffled` by (seed, epoch). Within a batch, positions are sorted.

    >>> plan = EpochPlan(rows=np.arange(5), batch_size=2, seed=0)
    >>> [plan.positions(step).tolist() for step in range(len(plan))]
    [[0, 1], [2, 3], [4]]
    """

    rows: Rows
    batch_size: int
    seed: int
    epoch: int = 0
    shuffled: bool = False

    def __len__(self) -> int:
        return math.ceil(len(self.rows) / self.batch_size)

    def positions(self, step: int) -> Rows:
        """Return the (B,) positions within `rows` of one step, sorted."""
        start, stop = step * self.batch_size, min((step + 1) * self.batch_size, len(self.rows))
        if not self.shuffled:
            return np.arange(start, stop)
        return np.sort(permutation(len(self.rows), self.seed, self.epoch)[start:stop])


@lru_cache(maxsize=6)
def permutation(size: int, seed: int, epoch: int) -> Rows:
    """Return the order of one epoch: a permutation of `range(size)` seeded by (seed, epoch)."""
    order = np.random.default_rng([seed, epoch]).permutation(size)
    order.flags.writeable = False
    return order


def choose_views(families: tuple[str, ...], names: tuple[str, ...], seed: int, step: int) -> tuple[int, ...]:
    """Draw one cached view of each family, by (seed, step); return their indices.

    If a family is named twice, its two views are different, if two are cached. Raises TrainError for a
    family without a cached view.

    >>> choose_views(("eval", "weak"), ("eval", "weak0", "weak1"), seed=0, step=0)[0]
    0
    """
    rng = np.random.default_rng([seed, step, len(names)])
    chosen: list[int] = []
    for family in families:
        members = [i for i, name in enumerate(names) if family in (name, family_of(name))]
        if not members:
            raise TrainError(
                f"the cache holds no `{family}` view",
                got=", ".join(names),
                hint=f"extract again with {option('views', f'{family}=1')}",
            )
        fresh = [i for i in members if i not in chosen] or members
        chosen.append(int(rng.choice(fresh)))
    return tuple(chosen)


def choose_tokens(tokens: int, prefix: int, share: float, seed: int, step: int) -> Rows | None:
    """Draw the sorted positions of the tokens of a step: the prefix, and a `share` of the others.

    The draw is without replacement, by (seed, step), and keeps at least one token. None means all tokens.

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
    """Return the family of a cached view.

    >>> family_of("strong1")
    'strong'
    """
    return view.rstrip("0123456789")
