"""The comparison table: paired intervals against scipy, and no claim without one."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from featcache.report import table
from featcache.report.table import Difference, paired

FIGURES = st.floats(0, 100).map(lambda value: round(value, 3))


def result(objective, seed, accuracy, labels_per_class=4, num_labels=12, nll=1.0):
    return {
        "objective": objective,
        "seed": seed,
        "labels_per_class": labels_per_class,
        "num_labels": num_labels,
        "test": {
            "accuracy": accuracy / 100,
            "nll": nll,
            "ece": 0.1,
            "nll_scaled": nll / 2,
            "ece_scaled": 0.05,
        },
        "seconds": 2.0,
    }


def results(cache="c", **accuracies):
    return [
        (cache, result(objective, seed, accuracy))
        for objective, by_seed in accuracies.items()
        for seed, accuracy in enumerate(by_seed)
    ]


def cells(text):
    head, _, *body = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    return [dict(zip(head, row, strict=True)) for row in body]


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
    assert got.clear == (interval.low > 0 or interval.high < 0)


def test_one_draw_claims_nothing():
    assert paired([90.0], [10.0]) == Difference(80.0, math.inf)
    row = cells(table.markdown(table.rows(results(linear=[10.0], twinturbo=[90.0]))))[1]
    assert row["accuracy %"] == "90.0"
    assert row["minus linear"] == "+80.0"


@pytest.mark.parametrize(
    ("a", "b", "shown"),
    [
        ([50, 52, 54], [40, 41, 45], "**+10.0 ± 2.5**"),
        ([40, 41, 45], [50, 52, 54], "**-10.0 ± 2.5**"),
        ([50, 60, 40], [45, 40, 50], "+5.0 ± 37.3"),
        ([50, 60], [50, 60], "+0.0 ± 0.0"),
    ],
)
def test_bold_only_where_the_interval_excludes_zero(a, b, shown):
    rows = cells(table.markdown(table.rows(results(linear=b, twinturbo=a))))
    assert rows[1]["minus linear"] == shown
    assert rows[0]["minus linear"] == ""


def test_draws_are_paired_by_seed():
    given = [("c", result("twinturbo", seed, 50 + seed)) for seed in (3, 1, 2)]
    given += [("c", result("linear", seed, 40 + seed)) for seed in (0, 1, 2, 3)]
    row = table.rows(given)[0]
    assert row.against["linear"].mean == pytest.approx(10.0)
    assert row.against["linear"].half_width == pytest.approx(0.0, abs=1e-9)


def test_caches_and_budgets_are_kept_apart():
    given = results(cache="a", linear=[10.0], knn=[20.0]) + results(cache="b", linear=[50.0])
    given += [("a", result("linear", 0, 30.0, labels_per_class=None, num_labels=20))]
    rows = cells(table.markdown(table.rows(given)))
    named = [(row["cache"], row["labels"], row["objective"], row["accuracy %"]) for row in rows]
    assert named == [
        ("a", "4/class", "linear", "10.0"),
        ("a", "4/class", "knn", "20.0"),
        ("b", "4/class", "linear", "50.0"),
        ("a", "20 in all", "linear", "30.0"),
    ]
    assert [row["minus linear"] for row in rows] == ["", "+10.0", "", ""]


def test_mean_and_spread():
    row = cells(table.markdown(table.rows(results(knn=[50.0, 60.0, 70.0]))))[0]
    assert row == {
        "cache": "c",
        "labels": "4/class",
        "objective": "knn",
        "accuracy %": "60.0 ± 10.0",
        "minus best control": "",
        "NLL": "1.00",
        "ECE": "0.100",
        "NLL scaled": "0.50",
        "ECE scaled": "0.050",
        "s": "2.0",
    }


def test_the_open_set_figure_stands_where_there_is_one():
    given = [("c", result("knn", seed, 50.0) | {"open_set": {"auroc": 0.7 + seed / 10}}) for seed in (0, 1)]
    rows = cells(table.markdown(table.rows([*given, *results(cache="d", knn=[50.0])])))
    assert [row["AUROC"] for row in rows] == ["0.750", ""]


def test_aligned_for_a_terminal():
    text = table.aligned(table.markdown(table.rows(results(linear=[10.0], supervised=[90.0]))))
    lines = text.splitlines()
    assert (
        " ".join(lines[0].split())
        == "cache labels objective accuracy % minus linear minus supervised minus best control "
        "NLL ECE NLL scaled ECE scaled s"
    )
    assert [line.index(word) for line, word in zip(lines[2:], ("linear", "supervised"), strict=True)] == [
        lines[0].index("objective")
    ] * 2
    assert not any(line != line.rstrip() for line in lines)


def test_the_best_control_is_named():
    given = results(zero_shot=[50, 50, 50], knn=[60, 61, 65], linear=[40, 70, 60], twinturbo=[70, 72, 74])
    rows = {row["objective"]: row for row in cells(table.markdown(table.rows(given)))}
    assert rows["twinturbo"]["minus best control"] == "**+10.0 ± 2.5** (knn)"
    assert rows["knn"]["minus best control"] == ""
    assert rows["zero_shot"]["minus best control"] == "**-12.0 ± 6.6** (knn)"
    assert rows["linear"]["minus linear"] == ""


def test_without_a_control_there_is_no_column_for_the_best():
    assert "control" not in table.markdown(table.rows(results(twinturbo=[50, 60])))


@pytest.mark.parametrize(
    ("draws", "said"), [(1, "Only 1 label draw:"), (4, "Only 4 label draws:"), (5, ""), (9, "")]
)
def test_a_note_where_draws_are_few(draws, said):
    given = results(linear=[50.0] * 9, knn=[60.0] * draws)
    note = table.note(table.rows(given))
    assert note.startswith(said)
    assert bool(note) == bool(said)


def test_other_references_have_columns_of_their_own():
    found = results(linear=[50, 60, 70], naive=[70, 80, 90], mixed=[73, 82, 91])
    rows = {row["objective"]: row for row in cells(table.markdown(table.rows(found, ("naive",)), ("naive",)))}
    expected = paired([73, 82, 91], [70, 80, 90])
    assert rows["mixed"]["minus naive"] == table.difference(expected)
    assert rows["linear"]["minus naive"].startswith("**-")
    assert rows["naive"]["minus naive"] == ""
    assert "minus naive" not in table.markdown(table.rows(found))
