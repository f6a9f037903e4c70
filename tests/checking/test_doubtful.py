"""Labels that were flipped on purpose are found; a copy with the same wrong label does not hide it."""

from __future__ import annotations

import numpy as np

from featcache.checking.doubtful import doubts, fits, held_out
from tests.checking.conftest import blobs


def test_flipped_labels_are_found_first() -> None:
    x, label = blobs(120, 3, seed=0)
    flipped = np.array([5, 40, 77])
    wrong = label.copy()
    wrong[flipped] = (label[flipped] + 1) % 3
    done: list[int] = []
    found = held_out(lambda rows: x[rows], wrong, np.arange(120), classes=3, done=done.append)
    assert len(done) == fits(120)
    judged = doubts(found, wrong)
    assert sorted(judged.position.tolist()) == flipped.tolist()
    assert (judged.suggested == label[judged.position]).all()
    assert (np.diff(judged.doubt) <= 0).all()
    assert (judged.doubt > 10 / 11).all()


def test_copies_share_a_fold() -> None:
    """Forty copies of one outlier with a wrong label would vouch for each other."""
    x, label = blobs(80, 2, seed=1)
    x, wrong = np.concatenate([x, np.repeat(x[:1], 40, 0)]), np.concatenate([label, np.full(40, 1)])
    group = np.arange(120)
    apart = held_out(lambda rows: x[rows], wrong, group, classes=2)
    group[80:] = 0
    together = held_out(lambda rows: x[rows], wrong, group, classes=2)
    assert np.exp(apart[80:, 1]).min() > 0.5
    assert np.exp(together[80:, 1]).max() < 0.5


def test_a_single_class_is_never_doubted() -> None:
    assert len(doubts(np.zeros((4, 1)), np.zeros(4, np.int64)).position) == 0
