"""Scores without labels against their definitions, a vote by hand, and scores of a collapse."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from featcache.training import selection
from featcache.training.selection import borda, folds, rankme, sample, scores


def clusters(spread, n=60, seed=0):
    """Samples of three classes around three centres, and confident predictions of them."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    z = 4 * np.eye(3, 8)[labels] + spread * rng.standard_normal((n, 8))
    probs = np.full((n, 3), 0.05)
    probs[np.arange(n), labels] = 0.9
    return z, np.log(probs)


@settings(deadline=None)
@given(arrays(np.float64, (7, 4), elements=st.floats(-5, 5)))
def test_rankme_by_its_definition(z):
    """From the eigenvalues of the Gram matrix, whose roots are the singular values."""
    sigma = np.sqrt(np.maximum(np.linalg.eigvalsh(z.T @ z), 0))
    if sigma.sum() < 1e-3:
        return
    p = sigma / sigma.sum() + 1e-7
    assert rankme(z) == pytest.approx(np.prod(p**-p), rel=1e-3)


def test_rankme_of_nothing_is_finite():
    assert np.isfinite(rankme(np.zeros((5, 3))))


def test_silhouette_by_its_definition():
    z, log_probs = clusters(1.0, n=12)
    centred = z - z.mean(0)
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    labels, widths = log_probs.argmax(1), []
    for i in range(len(z)):
        distance = np.linalg.norm(unit - unit[i], axis=1)
        own = distance[(labels == labels[i]) & (np.arange(len(z)) != i)].mean()
        other = min(distance[labels == c].mean() for c in range(3) if c != labels[i])
        widths.append((other - own) / max(own, other))
    assert scores(z, log_probs)["silhouette"] == pytest.approx(np.mean(widths))


def test_every_score_says_that_better_is_larger():
    good, bad = scores(*clusters(0.1)), scores(*clusters(3.0))
    assert good["silhouette"] > bad["silhouette"]
    assert good["calinski_harabasz"] > bad["calinski_harabasz"]
    z, log_probs = clusters(0.5)
    flat = np.log(0.5 * np.exp(log_probs) + 0.5 / 3)
    assert scores(z, log_probs)["confidence"] > scores(z, flat)["confidence"]
    assert scores(z, log_probs)["marginal_entropy"] == pytest.approx(np.log(3))
    other = np.roll(log_probs, 1, axis=1)
    mixed = np.where(np.arange(len(z))[:, None] < 15, other, log_probs)
    assert scores(z, log_probs, mixed)["agreement"] == pytest.approx(0.75)
    assert "agreement" not in scores(z, log_probs)


def test_a_collapse_gets_the_least_there_is():
    z, log_probs = clusters(0.5)
    one = np.log(np.tile([0.98, 0.01, 0.01], (len(z), 1)))
    collapsed = scores(z, one)
    assert (collapsed["silhouette"], collapsed["calinski_harabasz"]) == (-1, 0)
    assert collapsed["marginal_entropy"] < scores(z, log_probs)["marginal_entropy"]
    assert all(np.isfinite(value) for value in scores(np.zeros((3, 2)), np.log(np.eye(3) + 1e-9)).values())


def test_the_vote_by_hand():
    """Ranks by a: 3, 1, 2; by b: 1.5, 1.5, 3; c is not had by all and does not count."""
    candidates = [{"a": 0.0, "b": 9.0, "c": 7.0}, {"a": 5.0, "b": 9.0}, {"a": 1.0, "b": 8.0, "c": 8.0}]
    assert borda(candidates) == [2.25, 1.25, 2.5]
    assert borda([{}, {}]) == [1.0, 1.0]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=6))
def test_the_vote_against_counting(pairs):
    """A rank is one, plus those ahead, plus half of those level."""

    def rank(values, own):
        return 1 + sum(v > own for v in values) + (sum(v == own for v in values) - 1) / 2

    columns = list(zip(*pairs, strict=True))
    wanted = [np.mean([rank(c, v) for c, v in zip(columns, pair, strict=True)]) for pair in pairs]
    assert borda([dict(zip("ab", pair, strict=True)) for pair in pairs]) == pytest.approx(wanted)


def test_rows_to_look_at(monkeypatch):
    monkeypatch.setattr(selection, "ROWS", 10)
    rows, labelled = np.arange(0, 90, 3), np.array([0, 30, 60])
    drawn = sample(rows, labelled, seed=1)
    assert len(drawn) == 10
    assert (np.diff(drawn) > 0).all()
    assert set(drawn.tolist()) <= set(rows.tolist()) - set(labelled.tolist())
    assert (drawn == sample(rows, labelled, seed=1)).all()
    assert (drawn != sample(rows, labelled, seed=2)).any()


@given(st.lists(st.integers(1, 5), min_size=2, max_size=4), st.integers(2, 6))
def test_folds_hold_out_every_sample_once(sizes, wanted):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    found = folds(labels, wanted, seed=0)
    assert len(found) == (min(wanted, *sizes) if min(sizes) > 1 else 0)
    if found:
        assert sorted(np.concatenate(found).tolist()) == list(range(len(labels)))
        assert all(len(np.unique(np.delete(labels, held))) == len(sizes) for held in found)
    assert folds(labels, 0, seed=0) == []
