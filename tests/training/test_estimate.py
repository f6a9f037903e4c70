"""Intervals against scipy's, by their properties, and by how often they hold for classes drawn by hand."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from featcache.training.cross_validation import estimate_folds, hold_out, selection_folds
from featcache.training.estimate import (
    SPREAD,
    WIDEST,
    binomial_interval,
    cross_validated_interval,
    estimate,
    holdout_interval,
)
from featcache.training.held_out import HeldOut
from featcache.training.selection import deal

NAMES = tuple("abcdefgh")
label_lists = st.lists(st.integers(0, 7), min_size=2, max_size=40).map(np.array)


def held_out(label, correct, kept=1.0, folds=10):
    """Predictions of which `correct` (R, n) are right; the models had the share `kept` of the labels."""
    label, correct = np.asarray(label), np.atleast_2d(np.asarray(correct, np.int8))
    known = correct[0] >= 0
    log_probs = np.where(known[:, None], np.log(0.125), np.nan) * np.ones((1, 8))
    return HeldOut(np.arange(len(label)), label, log_probs, correct, np.where(known, kept, 0.0), folds)


@pytest.mark.parametrize(("right", "samples"), [(0, 1), (1, 1), (0, 20), (13, 20), (20, 20), (199, 200)])
def test_the_interval_is_that_of_clopper_and_pearson(right, samples):
    expected = binomtest(right, samples).proportion_ci(0.95, "exact")
    assert binomial_interval(right, samples) == pytest.approx((expected.low, expected.high), abs=1e-9)
    found = holdout_interval(right, samples)
    assert (found["low"], found["high"]) == binomial_interval(right, samples)


@pytest.mark.parametrize(("right", "samples"), [(0, 3), (15, 15), (27, 30)])
def test_three_held_out_labels_count_as_two(right, samples):
    """Where the models had all labels of the class, nothing else is allowed for."""
    middle, low, high = cross_validated_interval(held_out(np.zeros(samples, int), np.arange(samples) < right))
    expected = binomtest(right * 2 // 3, samples * 2 // 3).proportion_ci(0.95, "exact")
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert middle == pytest.approx(right / samples)


@given(st.data(), label_lists, st.integers(1, 3))
@settings(deadline=None)
def test_the_interval_holds_the_estimate_and_grows_with_it(data, label, repeats):
    draws = st.lists(st.integers(0, 1), min_size=len(label), max_size=len(label))
    single = np.bincount(label)[label] == 1
    correct = np.array([data.draw(draws) for _ in range(repeats)])
    correct[:, single] = -1
    kept = data.draw(st.floats(0.01, 1))
    random = data.draw(st.booleans())
    middle, low, high = cross_validated_interval(held_out(label, correct, kept), random=random)
    assert 0 <= low <= middle <= high <= 1
    if (correct == 0).any():
        better = correct.copy()
        better[tuple(np.argwhere(correct == 0)[0])] = 1
        more = cross_validated_interval(held_out(label, better, kept), random=random)
        assert more[0] >= middle
        assert more[1] >= low - 1e-12
        assert more[2] >= high - 1e-12


def test_many_labels_leave_no_doubt():
    label = np.arange(100_000) % 8
    middle, low, high = cross_validated_interval(held_out(label, np.arange(len(label)) % 5 > 0))
    assert high - low < 0.01
    assert low < 0.8 < high
    assert middle == pytest.approx(0.8)


def test_a_single_label_may_be_right_or_wrong():
    label, correct = np.array([0] * 9 + [1]), np.array([1] * 9 + [-1])
    middle, low, high = cross_validated_interval(held_out(label, correct), random=False)
    assert middle == pytest.approx(0.95)
    assert cross_validated_interval(held_out(label, correct)) == (pytest.approx(0.9), low, high)
    assert low == pytest.approx(binomial_interval(6, 10 / SPREAD)[0])
    assert high == 1
    # A class with two labels beside it: classes may be missing, by Esty's variance.
    label = np.array([0] * 7 + [1, 2, 2])
    both = cross_validated_interval(held_out(label, np.where(label == 1, -1, 1)))
    alike = 10 / SPREAD * (SPREAD * 0.009) / (SPREAD * 0.009 + 2 / 100)
    assert both[1] == pytest.approx(binomial_interval(0.9 * alike, alike)[0])
    assert both[1] < low


def test_a_fold_with_half_of_the_labels_counts_half_an_error():
    label, correct = np.repeat([0, 1], 15), np.arange(30) % 3 > 0
    whole, half = (cross_validated_interval(held_out(label, correct, kept)) for kept in (1.0, 0.5))
    assert half[1] == whole[1]
    assert half[2] == pytest.approx(binomial_interval(25 / SPREAD, 30 / SPREAD)[1])


@given(label_lists, st.integers(2, 12), st.integers(0, 5))
def test_folds_hold_out_every_label_but_single_ones(label, wanted, seed):
    parts = deal(label, wanted, seed)
    counts = np.bincount(label)
    known = np.flatnonzero(counts[label] > 1)
    assert sorted(np.concatenate([*parts, []]).tolist()) == known.tolist()
    assert len(parts) == min(wanted, len(known))
    for held in parts:
        assert set(np.delete(label, held)) == set(label)
        assert len(held) <= -(-len(known) // wanted)
        assert np.bincount(label[held]).max() <= -(-counts.max() // wanted)
    assert [part.tolist() for part in parts] == [part.tolist() for part in deal(label, wanted, seed)]


def test_how_many_folds():
    assert [len(parts) for parts in estimate_folds(np.arange(40) % 4, 0, 0, cheap=False)] == [5]
    few, many = (estimate_folds(np.arange(n) % 4, 0, 0, cheap=True) for n in (40, 100))
    assert [len(parts) for parts in few] == [10] * 3
    assert [len(parts) for parts in many] == [5]
    assert few[0][0].tolist() != few[1][0].tolist()
    assert len(estimate_folds(np.arange(40) % 4, 2, 0, cheap=False)[0]) == 2
    assert estimate_folds(np.arange(4), 0, 0, cheap=True) == []
    assert selection_folds(np.array([0, 0, 1]), 2, 0) == []


def nearest_mean(x, label, classes):
    """A fit that sees only `x` and `label`: minus squared distances to class means, as log-probabilities."""
    means = np.array([x[label == c].mean(0) if (label == c).any() else np.full(x.shape[1], 1e3)
                      for c in range(classes)])  # fmt: skip
    return lambda asked: -((asked[:, None] - means) ** 2).sum(2)


def predictions(x, label, classes, seed, wanted=0):
    def predict(number, held):
        return nearest_mean(np.delete(x, held, 0), np.delete(label, held), classes)(x[held])

    parts = estimate_folds(label, wanted, seed, cheap=False)
    return hold_out(np.arange(len(label)), label, classes, parts, predict)


def test_every_row_is_predicted_by_a_model_without_it():
    """A label that is wrong on purpose is predicted as what it looks like."""
    x, label = np.repeat(np.eye(2), 6, 0), np.repeat([0, 1], 6)
    label[3] = 1
    found = predictions(x, label, 3, seed=0)
    assert found.correct[0].tolist() == [int(row != 3) for row in range(12)]
    assert (found.log_probs.argmax(1) == np.repeat([0, 1], 6)).all()
    assert found.kept.min() >= 5 / 7


def test_repeats_are_averaged_and_normalised():
    label = np.array([0, 0, 1, 1, 2])
    said = iter(
        np.log([[[0.9, 0.1, 0]] * 4, [[0.1, 0.9, 0]] * 4], where=[[[1, 1, 0]]], out=np.full((2, 4, 3), -30.0))
    )
    parts = [np.arange(4)]
    found = hold_out(np.arange(5), label, 3, [parts, parts], lambda number, held: next(said))
    assert np.exp(found.log_probs[:4]).sum(1) == pytest.approx(1)
    assert np.exp(found.log_probs[0, :2]) == pytest.approx(0.5)
    assert found.correct.tolist() == [[1, 1, 0, 0, -1], [0, 0, 1, 1, -1]]
    assert np.isnan(found.log_probs[4]).all()
    assert found.known.tolist() == [True] * 4 + [False]
    assert hold_out(np.arange(5), label, 3, [], lambda number, held: next(said)) is None


@pytest.mark.parametrize("design", ["random", "even"])
@pytest.mark.parametrize("number", [12, 24])
def test_the_interval_holds_for_gaussians(design, number):
    """Six classes, some of them rare, so that random labels miss some; 100 draws."""
    classes, rng = 6, np.random.default_rng(1)
    share = np.array([0.3, 0.2, 0.2, 0.15, 0.1, 0.05])
    centres = 1.3 * rng.standard_normal((classes, 4))
    truth = rng.choice(classes, 500, p=share if design == "random" else None)
    x = centres[truth] + rng.standard_normal((500, 4))
    held = 0
    for seed in range(100):
        rows = rng.permutation(500)
        if design == "even":
            rank = np.zeros(500)
            for c in range(classes):
                rank[truth[rows] == c] = np.arange((truth == c).sum())
            rows = rows[np.argsort(rank, kind="stable")]
        rows, rest = rows[:number], rows[number:]
        accuracy = (nearest_mean(x[rows], truth[rows], classes)(x[rest]).argmax(1) == truth[rest]).mean()
        found = predictions(x[rows], truth[rows], classes, seed)
        low, high = (0.0, 1.0) if found is None else cross_validated_interval(found)[1:]
        held += low <= accuracy <= high
    assert held >= 94


def test_what_an_estimate_says():
    label = np.array([0] * 10 + [1] * 9 + [2])
    found = estimate(held_out(label, [[1] * 10 + [0] + [1] * 8 + [-1]]), label, NAMES)
    assert found["low"] < found["accuracy"] < found["high"]
    assert (found["labels"], found["held_out"], found["folds"], found["repeats"]) == (20, 19, 10, 1)
    assert found["per_class"] == {"a": 1.0, "b": pytest.approx(8 / 9)}
    assert f"{100 * found['accuracy']:.0f} %" in found["sentence"]
    chosen = estimate(held_out(label, [[1] * 19 + [-1]]), label, NAMES, random=False)
    assert "not drawn at random" in chosen["sentence"]


def test_too_few_labels_give_no_figure():
    wide = estimate(held_out([0, 0, 1, 1], [1, 0, 1, 0]), np.array([0, 0, 1, 1]), NAMES)
    assert wide["accuracy"] is None
    assert wide["high"] - wide["low"] > WIDEST
    assert "too few" in wide["sentence"]
    one_each = estimate(None, np.arange(5), NAMES)
    assert one_each["accuracy"] is None
    assert (one_each["low"], one_each["high"]) == (0, 1)
    assert "No class has two labels" in one_each["sentence"]


def test_the_study_measures_and_goes_on_where_it_stopped(cache, tmp_path, capsys, monkeypatch):
    from studies import estimate as study
    from studies._command import main

    def call(*arguments):
        monkeypatch.setattr("sys.argv", ["estimate", *map(str, arguments)])
        main(study.__doc__, study.arguments, study.measure, study.table)

    out = tmp_path / "out.jsonl"
    measure = ("measure", cache, "--out", out, "--labels", 6, "--options", '{"objective": {"C": 1}}')
    call(*measure, "--repetitions", 1)
    first = out.read_text()
    call(*measure, "--repetitions", 2)
    assert out.read_text().startswith(first)
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(line["design"], line["seed"]) for line in lines] == [
        ("random", 0),
        ("even", 0),
        ("random", 1),
        ("even", 1),
    ]
    assert all(len(line["label"]) == 6 and 0 <= line["rest"] <= line["rest_seen"] <= 1 for line in lines)
    call("table", out)
    assert capsys.readouterr().out.count("| cache | 6 | 2 |") == 2
