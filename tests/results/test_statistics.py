"""Means, standard deviations and paired intervals, against scipy and the standard library."""

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from featcache.results.statistics import Difference, mean_and_std, paired

FIGURES = st.floats(0, 100).map(lambda value: round(value, 3))


@given(st.lists(st.tuples(FIGURES, FIGURES), min_size=2, max_size=12))
def test_paired_interval_against_scipy(pairs):
    a, b = [x for x, _ in pairs], [y for _, y in pairs]
    got, gaps = paired(a, b), [x - y for x, y in pairs]
    assert got.mean == pytest.approx(sum(gaps) / len(gaps), abs=1e-9)
    if max(gaps) - min(gaps) < 1e-6:
        assert got.half_width == pytest.approx(0, abs=1e-5)
        return
    interval = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert (got.mean - got.half_width, got.mean + got.half_width) == pytest.approx(tuple(interval), abs=1e-6)
    assert got.clear == (len(pairs) > 4 and (interval.low > 0 or interval.high < 0))


@given(st.lists(st.tuples(FIGURES, FIGURES), min_size=1, max_size=6))
def test_the_order_of_a_pair_is_the_sign(pairs):
    there, back = paired(*zip(*pairs, strict=True)), paired(*([y for _, y in pairs], [x for x, _ in pairs]))
    assert (back.mean, back.half_width) == pytest.approx((-there.mean, there.half_width))


@given(FIGURES, FIGURES)
def test_a_single_pair_claims_nothing(a, b):
    assert paired([a], [b]) == Difference(a - b, math.inf, 1)
    assert not paired([a], [b]).clear


def test_two_equal_differences_claim_nothing():
    assert paired([50.5, 60.5], [50.0, 60.0]) == Difference(0.5, 0.0, 2)
    assert not paired([50.5, 60.5], [50.0, 60.0]).clear
    assert not paired([50.5] * 4, [50.0] * 4).clear
    assert paired([50.5] * 5, [50.0] * 5).clear


@given(st.lists(FIGURES, min_size=1, max_size=12))
def test_mean_and_standard_deviation_against_the_standard_library(values):
    mean, std = mean_and_std(values)
    assert mean == pytest.approx(statistics.fmean(values))
    if len(values) == 1:
        assert std is None
    else:
        assert std == pytest.approx(statistics.stdev(values), abs=1e-6)
