"""Unknown classes, missing classes, and long tails with the requested ratio."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featcache.errors import TrainError
from featcache.loading.splits import LabelSplit, choose_classes, draw_labels, long_tail, tail_sizes

SEEDS = st.integers(0, 2**32 - 1)
NAMES = tuple("abcdef")


@given(st.integers(2, 30), st.data(), SEEDS)
def test_classes_are_parted(classes, data, seed):
    unknown = data.draw(st.integers(0, classes - 2))
    missing = data.draw(st.integers(0, classes - 2 - unknown))
    parts = choose_classes(classes, unknown=unknown, missing=missing, seed=seed)
    assert (len(parts.unknown), len(parts.missing)) == (unknown, missing)
    assert sorted([*parts.known, *parts.unknown]) == list(range(classes))
    assert set(parts.missing) <= set(parts.known)
    numbered = parts.numbered(np.arange(-1, classes))
    assert numbered[0] == -1
    assert (numbered[1:][parts.unknown] == -1).all()
    assert numbered[1:][parts.known].tolist() == list(range(len(parts.known)))


def test_every_class_can_be_left_out_and_more_only_add():
    drawn = [choose_classes(5, unknown=2, missing=1, seed=seed) for seed in range(50)]
    assert {int(c) for parts in drawn for c in parts.unknown} == set(range(5))
    assert {int(c) for parts in drawn for c in parts.missing} == set(range(5))
    for seed, parts in enumerate(drawn):
        more = choose_classes(5, unknown=3, seed=seed)
        assert set(parts.unknown) < set(more.unknown)


@pytest.mark.parametrize(("classes", "unknown", "missing"), [(3, 2, 0), (3, 1, 1), (3, 0, 2), (2, 9, 0)])
def test_two_classes_must_have_labels(classes, unknown, missing):
    with pytest.raises(TrainError, match=rf"{unknown} unknown and .* of {classes} classes[\s\S]*next"):
        choose_classes(classes, unknown=unknown, missing=missing, seed=0)


@given(SEEDS, st.sets(st.integers(0, 5), max_size=4))
def test_leaving_classes_out_changes_no_other_label(seed, without):
    labels = np.arange(120) % 6
    whole = draw_labels(labels, NAMES, seed=seed, labels_per_class=3)
    part = draw_labels(labels, NAMES, seed=seed, labels_per_class=3, without=without)
    rest = whole.labelled[~np.isin(labels[whole.labelled], list(without))]
    assert part.labelled.tolist() == rest.tolist()
    assert part.unlabelled.tolist() == whole.unlabelled.tolist()


def test_a_class_left_out_may_be_empty():
    labels, names, two = np.array([0, 0, 2, 2, 3, 3]), NAMES[:4], {"seed": 0, "labels_per_class": 2}
    assert draw_labels(labels, names, **two, without={1}).labelled.tolist() == list(range(6))
    with pytest.raises(TrainError, match="of the class `b`"):
        draw_labels(labels, names, **two, without={0})
    with pytest.raises(TrainError, match="2 samples of `d`"):
        draw_labels(labels, names, **two, without={0, 1, 2})


@given(st.lists(st.integers(1, 500), min_size=2, max_size=12), st.floats(1, 1000), st.randoms())
def test_the_tail_follows_its_formula(sizes, ratio, random):
    rank = list(range(len(sizes)))
    random.shuffle(rank)
    got = tail_sizes(np.array(sizes), np.array(rank), ratio)
    assert (got >= 1).all()
    assert (got <= sizes).all()
    best = min(size * ratio ** (r / (len(sizes) - 1)) for size, r in zip(sizes, rank, strict=True))
    exact = [best * ratio ** (-r / (len(sizes) - 1)) for r in rank]
    assert all(abs(n - max(1, x)) <= 1 for n, x in zip(got, exact, strict=True))
    by_rank = got[np.argsort(rank)]
    assert (np.diff(by_rank) <= 0).all()


@given(SEEDS, st.integers(1, 8), st.sampled_from([1.0, 2.0, 10.0, 100.0]))
def test_labelled_rows_stay_and_others_are_thinned(seed, budget, ratio):
    labels = np.concatenate([np.arange(600) % 6, [-1] * 7])
    whole = draw_labels(labels, NAMES, seed=seed, labels_per_class=budget)
    thin = long_tail(whole, labels, ratio=ratio, seed=seed)
    assert thin.labelled.tolist() == whole.labelled.tolist()
    assert set(thin.labelled) <= set(thin.unlabelled) <= set(whole.unlabelled)
    assert (np.diff(thin.unlabelled) > 0).all()
    if ratio == 1:
        assert thin is whole
        return
    counts = np.bincount(labels[thin.unlabelled], minlength=6)
    expected = [max(budget, int(100 * ratio ** (-rank / 5) + 1e-9)) for rank in range(6)]
    assert sorted(counts.tolist(), reverse=True) == expected


def test_the_tail_is_drawn_by_the_seed():
    labels = np.arange(600) % 6
    split = LabelSplit(np.arange(6), np.arange(600))
    drawn = [tuple(long_tail(split, labels, ratio=10, seed=seed).unlabelled) for seed in (0, 1, 2, 0)]
    assert drawn[0] == drawn[3]
    assert len(set(drawn)) == 3
    frequent = {
        int(np.bincount(labels[long_tail(split, labels, ratio=10, seed=seed).unlabelled]).argmax())
        for seed in range(40)
    }
    assert frequent == set(range(6))
