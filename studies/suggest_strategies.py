"""Other ways to choose a batch, from the papers, to compare `featcache suggest` with.

Each takes a `View` of the state and returns distinct unlabelled rows. `fill` completes a batch that is too
small.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans

from featcache.active.batch import Strategy, choose, draw_rows, margin_uncertainty
from featcache.active.space import Rows, Vectors, squared_distances

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class View:
    """What a strategy sees."""

    pooled: Vectors
    z: Vectors
    """Directions of `pooled`."""
    labelled: Rows
    predict: Callable[[Vectors], Floats] | None
    """Log-probabilities of the classifier; None before two classes are labelled."""
    rng: np.random.Generator

    @property
    def free(self) -> Rows:
        """The rows without a label."""
        return np.setdiff1d(np.arange(len(self.z)), self.labelled)

    def margin(self) -> Floats:
        """Return the margin of the free rows: 0 is torn, 1 is sure."""
        assert self.predict is not None
        return 1 - margin_uncertainty(self.predict(self.pooled[self.free]))


def ours(strategy: Strategy) -> Callable[[View, int], Rows]:
    """Return a strategy of `featcache suggest`."""

    def pick(view: View, n: int) -> Rows:
        rows = draw_rows(np.arange(len(view.z)), view.labelled, view.rng)
        vectors = view.z[rows.candidates], view.z[rows.reference], view.z[view.labelled]
        doubt = None
        if view.predict is not None and strategy == "auto":
            doubt = margin_uncertainty(view.predict(view.pooled[rows.reference]))
        return choose(rows, vectors, n, strategy, view.rng, uncertainty=doubt).rows

    return pick


def typiclust(view: View, n: int) -> Rows:
    """Take the most typical row of the largest clusters without a label: TypiClust, arXiv 2202.02794."""
    clusters = _kmeans(view.z, min(len(view.labelled) + n, 500), view)
    labelled = np.zeros(len(view.z), bool)
    labelled[view.labelled] = True
    sizes = np.bincount(clusters.labels_)
    known = np.bincount(clusters.labels_[view.labelled], minlength=len(sizes))
    order = [c for c in np.lexsort((-sizes, known)) if sizes[c] > 5]
    chosen: list[int] = []
    for cluster in [*order * n][: 5 * n]:
        members = np.flatnonzero(clusters.labels_ == cluster)
        free = members[~labelled[members]]
        if len(free) and len(chosen) < n:
            near = np.sqrt(np.sort(squared_distances(view.z[free], view.z[members]), axis=1))[:, 1:21]
            chosen.append(int(free[near.mean(1).argmin()]))
            labelled[chosen[-1]] = True
    return np.array(chosen, np.int64)


def margin(view: View, n: int) -> Rows:
    """Take the rows with the least margin (Scheffer et al. 2001); medoids of k-means without a classifier."""
    if view.predict is None:
        return _medoids(view, view.free, n)
    return view.free[np.argsort(view.margin())[:n]]


def diverse(view: View, n: int, surplus: int = 10) -> Rows:
    """Cluster the rows of least margin, weighted by it: diverse mini-batches, arXiv 1901.05954."""
    if view.predict is None:
        return typiclust(view, n)
    found = view.margin()
    least = np.argsort(found)[: surplus * n]
    return _medoids(view, view.free[least], n, 1 - found[least] + 1e-6)


def dropquery(view: View, n: int, passes: int = 3, drop: float = 0.75) -> Rows:
    """Cluster the rows whose predicted class changes when inputs are dropped: DropQuery, arXiv 2401.14555."""
    if view.predict is None:
        return _medoids(view, view.free, n)
    own = view.predict(view.pooled).argmax(1)
    changed = np.zeros(len(own))
    for _ in range(passes):
        kept = (view.rng.random(view.pooled.shape) > drop) / np.float32(1 - drop)
        changed += view.predict((view.pooled * kept).astype(np.float32)).argmax(1) != own
    free = view.free
    unsteady = free[changed[free] > passes / 2]
    return _medoids(view, unsteady if len(unsteady) >= n else free[np.argsort(-changed[free])[: 2 * n]], n)


def badge(view: View, n: int) -> Rows:
    """Draw by k-means++ on gradients of the last layer: BADGE, arXiv 1906.03671; `cover` at the start."""
    if view.predict is None:
        return ours("cover")(view, n)
    free = view.free
    gradient, z = np.exp(view.predict(view.pooled[free])), view.z[free].astype(np.float64)
    gradient[np.arange(len(free)), gradient.argmax(1)] -= 1
    norms = (gradient**2).sum(1) * (z**2).sum(1)
    chosen = [int(norms.argmax())]
    away = np.full(len(free), np.inf)
    while len(chosen) < n:
        last = chosen[-1]
        inner = (gradient @ gradient[last]) * (z @ z[last])
        away = np.minimum(away, np.maximum(norms + norms[last] - 2 * inner, 0))
        away[chosen] = 0
        chosen.append(int(view.rng.choice(len(free), p=away / away.sum())))
    return free[chosen]


STRATEGIES: dict[str, Callable[[View, int], Rows]] = {
    "random": lambda view, n: view.rng.choice(view.free, n, replace=False),
    "auto": ours("auto"),
    "cover": ours("cover"),
    "typiclust": typiclust,
    "margin": margin,
    "diverse": diverse,
    "dropquery": dropquery,
    "badge": badge,
}


def fill(view: View, chosen: Rows, n: int) -> Rows:
    """Complete a batch with rows drawn at random."""
    missing = n - len(chosen)
    rest = np.setdiff1d(view.free, chosen)
    return np.concatenate([chosen, view.rng.choice(rest, missing, replace=False)]) if missing else chosen


def _medoids(view: View, rows: Rows, n: int, weight: Floats | None = None) -> Rows:
    """Return the row nearest to each of n cluster centres, each row once."""
    clusters = _kmeans(view.z[rows], n, view, weight)
    away = clusters.transform(view.z[rows])
    chosen: list[int] = []
    for centre in range(away.shape[1]):
        chosen.append(next(int(i) for i in np.argsort(away[:, centre]) if int(i) not in chosen))
    return rows[chosen]


def _kmeans(z: Vectors, clusters: int, view: View, weight: Floats | None = None) -> KMeans:
    seed = int(view.rng.integers(2**31))
    return KMeans(min(clusters, len(z)), n_init=1, random_state=seed).fit(z, sample_weight=weight)
