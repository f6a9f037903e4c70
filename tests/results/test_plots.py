"""The plots of a study: every objective is drawn, and the same figures give the same picture."""

import io
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from featcache.results.plots import accuracy_plot, merge_bins, png, reliability_plot, spread, svg
from featcache.results.rows import Budget, Outcome, Row


def row(objective, budget, accuracy, cache="digits", unit="per class"):
    return Row(
        cache,
        Budget(budget, unit),
        objective,
        accuracy,
        nll=1.0,
        ece=0.1,
        nll_scaled=1.0,
        ece_scaled=0.1,
        seconds=1.0,
        differences={},
    )


ROWS = [
    row("linear", 1, (50.0, 54.0)),
    row("linear", 4, (70.0, 71.0)),
    row("twinturbo", 4, (90.0, 91.0)),
    row("twinturbo", 1, (80.0, 84.0)),
]


def decoded(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def pixels(rows):
    return decoded(png(accuracy_plot(rows)))


def table(*bins):
    return dict(zip(("count", "confidence", "accuracy"), map(list, zip(*bins, strict=True)), strict=True))


def test_the_same_rows_give_the_same_bytes():
    assert png(accuracy_plot(ROWS)) == png(accuracy_plot(ROWS))


@pytest.mark.parametrize("which", range(4))
def test_every_row_is_seen(which):
    moved = [replace(r, accuracy=(60.0, 62.0)) if i == which else r for i, r in enumerate(ROWS)]
    assert (pixels(moved) != pixels(ROWS)).any()


def test_a_panel_for_each_cache_and_way_of_counting():
    one = pixels(ROWS).shape
    other = [*ROWS, row("linear", 24, (60.0,), unit="in all"), row("linear", 1, (9.0,), cache="other")]
    assert pixels(other).shape == (one[0], 3 * one[1], 3)


def test_one_draw_and_many_objectives():
    rows = [row(f"objective{n}", 2**k, (float(10 * n + k),)) for n in range(9) for k in range(2)]
    colours = {tuple(c) for c in pixels(rows).reshape(-1, 3).tolist()}
    assert {(0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00), (0x99, 0x99, 0x99)} <= colours


def outcome(accuracy, objective="x", labels=2):
    bins = table((0, None, None), (10, 0.9, accuracy))
    test = {"accuracy": accuracy, "reliability": {"before": bins, "after": bins}}
    return Outcome("c", objective, {"seed": 0, "labels_per_class": labels, "num_labels": 4, "test": test})


def test_the_diagram_shows_every_objective_of_the_largest_budget():
    def drawn(*accuracies):
        given = [outcome(a, objective=f"o{n}") for n, a in enumerate(accuracies)]
        return decoded(png(reliability_plot([outcome(0.1, "o0", labels=1), *given])))

    pictures = [drawn(0.9, 0.5), drawn(0.8, 0.5), drawn(0.8, 0.2), drawn(0.8, 0.2)]
    assert [bool((a != b).any()) for a, b in pairwise(pictures)] == [True, True, False]
    smaller = [outcome(0.4, "o0", labels=1), outcome(0.9, "o0"), outcome(0.5, "o1")]
    assert (decoded(png(reliability_plot(smaller))) == pictures[0]).all()


@given(st.lists(st.tuples(st.integers(1, 50), st.floats(0, 1), st.integers(0, 50)), min_size=1, max_size=6))
def test_merged_bins_are_those_of_all_samples(parts):
    """One bin over several tables: the means over all its samples."""
    tables = [table((n, confidence, min(right, n) / n), (0, None, None)) for n, confidence, right in parts]
    total = sum(n for n, _, _ in parts)
    confidence, accuracy, share = merge_bins(tables)
    assert confidence == pytest.approx([sum(n * c for n, c, _ in parts) / total])
    assert accuracy == pytest.approx([sum(min(r, n) for n, _, r in parts) / total])
    assert share == pytest.approx([1.0])


def test_a_bin_with_few_samples_is_not_drawn():
    confidence, _, share = merge_bins([table((1, 0.1, 1.0), (200, 0.9, 0.8))])
    assert confidence.tolist() == [0.9]
    assert share.tolist() == [200 / 201]


def test_every_line_is_named_and_the_plot_says_of_what_it_is():
    rows = [
        replace(row(f"method{n}", b, (50.0 + n / 9, 51.0)), samples=500) for n in range(10) for b in (1, 4)
    ]
    said = svg(accuracy_plot(rows)).decode()
    assert svg(accuracy_plot(rows)) == svg(accuracy_plot(rows))
    assert all(f">method{n}</text>" in said for n in range(10))
    assert "means over 2 label draws; bands: one standard deviation, on 500 test samples" in said


@given(st.lists(st.floats(0, 1), min_size=1, max_size=14))
def test_names_do_not_overlap(places):
    found = spread(sorted(places), 0.04)
    assert all(b - a >= 0.04 - 1e-5 for a, b in pairwise(found))
    # The first and the last half of a crowd move in opposite directions, so the middle stays.
    assert np.mean(found) == pytest.approx(np.mean(places), abs=1e-5)


def test_a_bin_with_more_samples_is_a_larger_point():
    def drawn(first, second):
        test = {"accuracy": 0.5, "reliability": dict.fromkeys(("before", "after"), table(first, second))}
        figure = reliability_plot([Outcome("c", "x", {"seed": 0, "labels_per_class": 2, "test": test})])
        return figure.axes[0].collections[0].get_sizes()

    small, large = drawn((10, 0.2, 0.2), (90, 0.9, 0.8))
    assert large > 4 * small
