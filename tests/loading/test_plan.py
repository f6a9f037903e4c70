"""The shuffle, tested as google/grain tests its own, and which views are read."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featcache.errors import TrainError
from featcache.loading.plan import EpochPlan, ReadPlan, choose_tokens, choose_views, permutation

SIZES, SEEDS, STEPS = st.integers(1, 60), st.integers(0, 2**32 - 1), st.integers(0, 40)


def stream(plan: ReadPlan, steps: range) -> list[int]:
    return [row for step in steps for row in plan.batch(step).tolist()]


@given(SIZES, SEEDS, st.integers(0, 1000))
def test_every_epoch_is_a_permutation(size, seed, epoch):
    assert sorted(permutation(size, seed, epoch).tolist()) == list(range(size))


def test_epochs_and_seeds_differ():
    orders = [tuple(permutation(100, seed, epoch)) for seed in range(3) for epoch in range(3)]
    assert len(set(orders)) == 9


def test_an_order_cannot_be_changed_by_its_reader():
    with pytest.raises(ValueError, match="read-only"):
        permutation(5, 0, 0).sort()


def test_golden_order():
    """A change of the order changes every result, so it must be intended."""
    assert permutation(10, 7, 0).tolist() == [8, 0, 7, 1, 3, 6, 2, 4, 5, 9]
    plan = ReadPlan(np.arange(100, 110), 4, seed=7)
    assert [plan.batch(step).tolist() for step in range(4)] == [
        [100, 101, 107, 108],
        [102, 103, 104, 106],
        [100, 105, 109, 109],
        [101, 106, 107, 108],
    ]


@given(SIZES, st.integers(1, 20), SEEDS, STEPS)
def test_a_batch_is_full_sorted_and_made_of_the_rows(size, batch, seed, step):
    rows = np.arange(size) * 3 + 5
    plan = ReadPlan(rows, batch, seed)
    positions = plan.positions(step)
    assert len(positions) == batch
    assert (np.diff(positions) >= 0).all()
    assert np.array_equal(plan.batch(step), rows[positions])


@given(SIZES, st.integers(1, 20), SEEDS, st.integers(1, 4))
def test_after_whole_epochs_every_row_was_seen_as_often(size, batch, seed, epochs):
    """`batch` epochs of `size` rows are `size` steps, and batches run across the epochs' borders."""
    plan = ReadPlan(np.arange(size), batch, seed)
    assert Counter(stream(plan, range(epochs * size))) == dict.fromkeys(range(size), epochs * batch)


@given(SIZES, st.integers(1, 20), SEEDS, st.integers(0, 3), st.booleans())
def test_an_epoch_visits_every_row_once(size, batch, seed, epoch, shuffled):
    rows = 7 * np.arange(size)
    plan = EpochPlan(rows, batch, seed, epoch, shuffled)
    parts = [plan.positions(step) for step in range(len(plan))]
    assert sorted(np.concatenate(parts).tolist()) == list(range(size))
    assert [len(part) for part in parts[:-1]] == [batch] * (len(parts) - 1)
    assert all((np.diff(part) > 0).all() for part in parts)
    assert shuffled or np.concatenate(parts).tolist() == list(range(size))


def test_epochs_are_shuffled_apart():
    halves = [EpochPlan(np.arange(99), 50, 5, epoch, True).positions(0).tolist() for epoch in (0, 1)]
    assert halves[0] != halves[1]


@given(SIZES, st.integers(1, 20), SEEDS, STEPS)
def test_any_step_can_be_asked_for_at_once(size, batch, seed, start):
    plan = ReadPlan(np.arange(size), batch, seed)
    whole = [plan.batch(step).tolist() for step in range(start + 3)]
    fresh = ReadPlan(np.arange(size), batch, seed)
    assert [fresh.batch(step).tolist() for step in range(start, start + 3)] == whole[start:]


def test_a_far_step_costs_as_much_as_a_near_one():
    plan = ReadPlan(np.arange(1000), 32, seed=11)
    before = permutation.cache_info().misses
    plan.batch(10**12)
    assert permutation.cache_info().misses - before <= 2


NAMES = ("eval", "weak0", "weak1", "strong0", "strong1", "strong2")


@given(SEEDS, STEPS)
def test_views_are_of_the_families_asked_for_and_differ(seed, step):
    families = ("weak", "strong", "strong", "eval", "weak")
    chosen = choose_views(families, NAMES, seed, step)
    assert [NAMES[view].rstrip("012") for view in chosen] == list(families)
    assert len(set(chosen)) == len(chosen)
    assert chosen == choose_views(families, NAMES, seed, step)


def test_every_view_of_a_family_is_read_about_as_often():
    seen = Counter(choose_views(("strong",), NAMES, 0, step)[0] for step in range(300))
    assert sorted(seen) == [3, 4, 5]
    assert min(seen.values()) > 70


def test_one_view_serves_twice_where_there_is_no_other():
    assert choose_views(("eval", "eval"), NAMES, 0, 0) == (0, 0)


def test_a_family_that_is_not_cached():
    with pytest.raises(TrainError, match=r"`weak`[\s\S]*got: +eval\n[\s\S]*weak=1"):
        choose_views(("weak",), ("eval",), 0, 0)


@given(st.integers(1, 40), st.integers(0, 4), st.floats(0.01, 1), st.integers(0, 99), st.integers(0, 99))
def test_a_subset_of_tokens(tokens: int, prefix: int, share: float, seed: int, step: int) -> None:
    kept = choose_tokens(tokens, prefix, share, seed, step)
    again = choose_tokens(tokens, prefix, share, seed, step)
    if kept is None:
        assert again is None
        others = max(tokens - prefix, 0)
        assert round(share * others) == others or tokens == 1
        return
    assert np.array_equal(kept, again)
    assert (np.diff(kept) > 0).all()
    assert kept[:prefix].tolist() == list(range(prefix))
    assert len(kept) == max(1, prefix + round(share * (tokens - prefix)))
    assert prefix <= kept[-1] + 1 <= tokens


def test_every_token_comes_up_as_often_as_its_share() -> None:
    draws = [choose_tokens(10, 2, 0.25, 5, step) for step in range(2000)]
    counts = np.bincount(np.concatenate([draw for draw in draws if draw is not None]), minlength=10)
    assert counts[:2].tolist() == [2000, 2000]
    assert np.abs(counts[2:] / 2000 - 0.25).max() < 0.04
