"""Batches: distinct, unlabelled, of the size asked for, and greedy as brute force is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from featcache.active import batch, coverage
from featcache.active.batch import choose, draw_rows, margin_uncertainty
from featcache.active.space import Vectors, directions, squared_distances


def blobs(sizes: list[int], seed: int) -> tuple[Vectors, NDArray[np.int64]]:
    """Clusters of these sizes around random directions, and the cluster of each row."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((len(sizes), 16))
    member = np.repeat(np.arange(len(sizes)), sizes)
    return directions(
        (centres[member] + 0.2 * rng.standard_normal((len(member), 16))).astype(np.float32)
    ), member


def pick(
    z: Vectors, labelled: NDArray[np.int64], n: int, strategy: batch.Strategy, seed: int, sure: bool = False
) -> NDArray[np.int64]:
    rng = np.random.default_rng(seed)
    rows = draw_rows(np.arange(len(z)), labelled, rng)
    vectors = z[rows.candidates], z[rows.reference], z[labelled]
    doubt = np.zeros(len(rows.reference)) if sure else np.linspace(0, 1, len(rows.reference))
    return choose(rows, vectors, n, strategy, rng, uncertainty=doubt).rows


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(2, 60),
    labelled=st.sets(st.integers(0, 59), max_size=20),
    n=st.integers(1, 30),
    strategy=st.sampled_from(batch.STRATEGIES),
    seed=st.integers(0, 9),
    sure=st.booleans(),
)
def test_a_batch_is_distinct_unlabelled_full_and_repeatable(
    rows: int, labelled: set[int], n: int, strategy: batch.Strategy, seed: int, sure: bool
) -> None:
    z = directions(np.random.default_rng(seed).standard_normal((rows, 8)).astype(np.float32))
    known = np.array(sorted(row for row in labelled if row < rows), np.int64)
    chosen = pick(z, known, n, strategy, seed, sure)
    assert len({*chosen.tolist()} - {*known.tolist()}) == len(chosen) == min(n, rows - len(known))
    assert chosen.tolist() == pick(z, known, n, strategy, seed, sure).tolist()


@pytest.mark.parametrize("strategy", batch.STRATEGIES)
def test_near_identical_rows_are_chosen_once_and_not_beside_a_label(strategy: batch.Strategy) -> None:
    base = np.random.default_rng(0).standard_normal((10, 8))
    noise = 1e-4 * np.random.default_rng(1).standard_normal((40, 8))
    z = directions((np.tile(base, (4, 1)) + noise).astype(np.float32))
    chosen = pick(z, np.array([3]), 40, strategy, 0)
    assert sorted((chosen % 10).tolist()) == [0, 1, 2, 4, 5, 6, 7, 8, 9]


def test_the_lazy_greedy_choice_is_that_of_brute_force() -> None:
    rng = np.random.default_rng(5)
    z = directions(rng.standard_normal((40, 6)).astype(np.float32))
    weight = rng.random(40)
    found = coverage.cover(z, z[:30], z[30:33], 6, weight=weight)
    kernel = np.exp(-squared_distances(z, z).astype(float) / coverage.kernel_width(z, 9))
    w, taken, total = weight + 1e-6, [30, 31, 32], (weight + 1e-6).sum()
    for chosen, share in zip(found.chosen.tolist(), found.share.tolist(), strict=True):
        sums = [w @ kernel[[*taken, c]].max(0) for c in range(30)]
        assert int(np.argmax(sums)) == chosen
        assert share == pytest.approx((max(sums) - w @ kernel[taken].max(0)) / total, rel=1e-3)
        taken.append(chosen)


def test_a_cold_start_finds_more_clusters_than_random_labels_do() -> None:
    found: dict[str, list[int]] = {"cover": [], "random": []}
    for seed in range(10):
        z, member = blobs([200, 100, 50, 40, 30, 20, 20, 20], seed)
        for strategy, counts in found.items():
            counts.append(len(np.unique(member[pick(z, np.zeros(0, np.int64), 8, strategy, seed)])))  # type: ignore[arg-type]
    assert np.mean(found["cover"]) >= 7
    assert np.mean(found["cover"]) > np.mean(found["random"]) + 1.5


def test_a_cold_start_is_typical_and_a_model_turns_it_to_what_is_unsure() -> None:
    z, member = blobs([60, 60, 60], 1)
    first = pick(z, np.zeros(0, np.int64), 3, "auto", 0, sure=True)
    nearest = np.sort(squared_distances(z, z), axis=1)[:, 1:21].mean(1)
    assert (nearest[first] < np.median(nearest)).all()
    rng = np.random.default_rng(0)
    rows = draw_rows(np.arange(len(z)), first, rng)
    vectors = z[rows.candidates], z[rows.reference], z[first]
    doubt = (member[rows.reference] == 2).astype(float)
    chosen = choose(rows, vectors, 4, "auto", rng, uncertainty=doubt)
    assert (member[chosen.rows] == 2).all()
    assert chosen.chosen_by == "cover uncertain"


def test_margins_of_one_class_are_sure() -> None:
    assert margin_uncertainty(np.zeros((3, 1))).tolist() == [0, 0, 0]


def test_many_rows_are_drawn_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "CANDIDATES", 50)
    monkeypatch.setattr(batch, "REFERENCE", 20)
    rows = draw_rows(np.arange(1000), np.arange(0, 1000, 2), np.random.default_rng(0))
    assert (len(rows.candidates), len(rows.reference)) == (50, 20)
    assert (rows.candidates % 2 == 1).all()
