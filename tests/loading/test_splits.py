"""Label draws: stratified, nested, seeded, and never of a row that must not be used."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from featcache.errors import TrainError
from featcache.loading.splits import draw_labels, set_aside

NAMES = ("cat", "dog", "owl")
LABELS = st.lists(st.integers(-1, 2), min_size=1, max_size=80).map(np.array)
SEEDS = st.integers(0, 2**32 - 1)


def counts(labels, rows):
    return [int((labels[rows] == c).sum()) for c in range(len(NAMES))]


@given(st.lists(st.integers(4, 20), min_size=3, max_size=3), st.integers(1, 4), SEEDS, st.randoms())
def test_as_many_of_each_class(sizes, wanted, seed, random):
    labels = [-1] * 5 + [c for c, size in enumerate(sizes) for _ in range(size)]
    random.shuffle(labels)
    split = draw_labels(np.array(labels), NAMES, seed=seed, labels_per_class=wanted)
    assert counts(np.array(labels), split.labelled) == [wanted] * 3
    assert split.labelled.tolist() == sorted(set(split.labelled.tolist()))
    assert split.unlabelled.tolist() == list(range(len(labels)))


@given(SEEDS)
def test_more_labels_only_add_rows(seed):
    labels = np.arange(60) % 3
    draws = [
        set(draw_labels(labels, NAMES, seed=seed, labels_per_class=n).labelled.tolist())
        for n in (1, 2, 4, 8, 20)
    ]
    assert all(fewer < more for fewer, more in pairwise(draws))


def test_seeds_give_different_draws_and_one_seed_the_same():
    labels = np.arange(300) % 3
    draws = [tuple(draw_labels(labels, NAMES, seed=s, labels_per_class=4).labelled) for s in (0, 1, 2, 3, 0)]
    assert draws[0] == draws[4]
    assert len(set(draws)) == 4


def test_every_row_of_a_class_can_be_drawn():
    labels = np.arange(12) % 3
    drawn = [draw_labels(labels, NAMES, seed=seed, labels_per_class=1).labelled for seed in range(60)]
    assert set(np.concatenate(drawn).tolist()) == set(range(12))


@given(LABELS, st.data())
def test_a_draw_in_proportion_sums_exactly(labels, data):
    sizes = np.array(counts(labels, slice(None)))
    usable = np.array(data.draw(st.lists(st.booleans(), min_size=len(labels), max_size=len(labels))))
    pools = np.array(counts(labels, usable))
    assume(np.count_nonzero(pools) > 1)
    wanted = data.draw(st.integers(1, int(pools.sum())))
    split = draw_labels(labels, NAMES, seed=data.draw(SEEDS), num_labels=wanted, usable=usable)
    drawn = np.array(counts(labels, split.labelled))
    assert drawn.sum() == wanted == len(set(split.labelled.tolist()))
    assert (drawn <= pools).all()
    assert (pools <= sizes).all()
    assert usable[split.labelled].all()
    assert split.unlabelled.tolist() == np.flatnonzero(usable).tolist()
    if wanted >= np.count_nonzero(pools):
        assert ((drawn > 0) == (pools > 0)).all()
        free, rest = pools - (pools > 0), wanted - np.count_nonzero(pools)
        share = free * rest / max(1, free.sum())
        assert (np.abs(drawn - (pools > 0) - share) < 1 + 1e-9).all()


def test_unusable_rows_are_in_neither_set():
    labels, usable = np.arange(30) % 3, np.arange(30) >= 9
    for seed in range(20):
        split = draw_labels(labels, NAMES, seed=seed, labels_per_class=7, usable=usable)
        assert split.labelled.tolist() == split.unlabelled.tolist() == list(range(9, 30))


@pytest.mark.parametrize(
    ("labels", "budget", "message"),
    [
        (
            [-1, -1],
            {"labels_per_class": 1},
            r"no labels[\s\S]*2 rows, 2 usable, 0 labelled[\s\S]*label_column",
        ),
        (
            [0, 1, 2, 2],
            {"labels_per_class": 2},
            r"class `cat`[\s\S]*labels_per_class=2\b.*\b1\n[\s\S]*num_labels",
        ),
        (
            [0, 1, 1],
            {"labels_per_class": 1},
            r"class `owl`[\s\S]*labels_per_class=1\b.*\b0\n[\s\S]*num_labels",
        ),
        ([0, 1, 2], {"labels_per_class": 0}, r"labels_per_class=0[\s\S]*expected: at least"),
        ([0, 1, 2], {"num_labels": 4}, r"cannot draw that many[\s\S]*num_labels=4[\s\S]*1 to 3"),
        ([0, 1, 2], {"num_labels": 0}, r"cannot draw that many[\s\S]*num_labels=0[\s\S]*1 to 3"),
        ([0, 1, 2], {"num_labels": 1, "labels_per_class": 1}, r"at most one[\s\S]*: 1, number of labels: 1"),
    ],
)
def test_refusals(labels, budget, message):
    with pytest.raises(TrainError, match=message):
        draw_labels(np.array(labels), NAMES, seed=0, **budget)


def test_without_a_budget_all_labels_are_drawn():
    labels = np.array([2, -1, 0, 0, 1])
    usable = np.array([True, True, True, False, True])
    drawn = draw_labels(labels, NAMES, seed=3, usable=usable)
    assert drawn.labelled.tolist() == [0, 2, 4]
    assert drawn.unlabelled.tolist() == [0, 1, 2, 4]


@given(
    st.lists(st.integers(-1, 3), min_size=1, max_size=60),
    st.floats(0.01, 0.9),
    st.integers(0, 59),
)
def test_what_is_set_aside_stays_so_when_labels_are_added(labels, share, added):
    ids = [f"photo {row}" for row in range(len(labels))]
    labels = np.array(labels)
    chosen = set_aside(ids, labels, share)
    assert not chosen[labels < 0].any()
    for c in np.unique(labels[labels >= 0]):
        assert not chosen[labels == c].all()
    more = labels.copy()
    more[added % len(labels)] = 0 if labels[added % len(labels)] < 0 else labels[added % len(labels)]
    lasts = {int(np.flatnonzero(labels == c)[0]) for c in range(4) if (labels == c).sum() == 1}
    kept = np.flatnonzero(chosen & ~np.isin(np.arange(len(labels)), [*lasts]))
    assert set_aside(ids, more, share)[kept].all()


def test_the_share_set_aside_is_about_what_was_asked():
    ids = [str(row) for row in range(4000)]
    assert set_aside(ids, np.arange(4000) % 4, 0.2).mean() == pytest.approx(0.2, abs=0.03)


def test_failed_rows_are_said_when_no_label_is_left():
    with pytest.raises(TrainError, match="3 rows, 0 usable, 3 labelled"):
        draw_labels(np.arange(3), NAMES, seed=0, num_labels=1, usable=np.zeros(3, bool))
