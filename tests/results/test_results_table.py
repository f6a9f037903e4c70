"""The table of results: grouping, pairing with the controls, and no claim without an interval."""

import csv
import json
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from featcache.results.results_table import csv_text, notes, results_table, terminal_text
from featcache.results.rows import Outcome, group_rows
from featcache.results.statistics import Difference, paired
from featcache.results.table import Table, difference_text

SEEDS = st.integers(0, 5)
FIGURES = st.integers(0, 1000).map(lambda value: value / 10)


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


def outcome(objective, seed, accuracy, cache="c", setting="", more=None, **budget):
    return Outcome(cache, objective, result(objective, seed, accuracy, **budget) | (more or {}), setting)


def results(cache="c", **accuracies):
    return [
        outcome(objective, seed, accuracy, cache=cache)
        for objective, by_seed in accuracies.items()
        for seed, accuracy in enumerate(by_seed)
    ]


def cells(outcomes, against=()):
    table = results_table(group_rows(outcomes, against), against)
    return [dict(zip(table.head, row, strict=True)) for row in table.rows]


def test_one_draw_claims_nothing():
    assert paired([90.0], [10.0]) == Difference(80.0, math.inf, 1)
    row = cells(results(linear=[10.0], twinturbo=[90.0]))[1]
    assert row["accuracy %"] == "90.0"
    assert row["minus linear"] == "+80.0"


@pytest.mark.parametrize(
    ("a", "b", "shown"),
    [
        ([50, 52, 54, 51, 53], [40, 41, 45, 41, 43], "**+10.0 ± 0.9**"),
        ([40, 41, 45, 41, 43], [50, 52, 54, 51, 53], "**-10.0 ± 0.9**"),
        ([50, 52, 54, 51], [40, 41, 45, 41], "+10.0 ± 1.3"),
        ([50, 60, 40], [45, 40, 50], "+5.0 ± 37.3"),
        ([50, 60], [50, 60], "+0.0 ± 0.0"),
        ([51, 61], [50, 60], "+1.0 ± 0.0"),
    ],
)
def test_bold_only_where_the_interval_excludes_zero(a, b, shown):
    rows = cells(results(linear=b, twinturbo=a))
    assert rows[1]["minus linear"] == shown
    assert rows[0]["minus linear"] == ""


def test_draws_are_paired_by_seed():
    given = [outcome("twinturbo", seed, 50 + seed) for seed in (3, 1, 2)]
    given += [outcome("linear", seed, 40 + seed) for seed in (0, 1, 2, 3)]
    row = group_rows(given)[0]
    assert row.differences["linear"].mean == pytest.approx(10.0)
    assert row.differences["linear"].half_width == pytest.approx(0.0, abs=1e-9)


@given(st.dictionaries(SEEDS, FIGURES, min_size=1), st.dictionaries(SEEDS, FIGURES, min_size=1))
def test_the_difference_is_that_of_the_seeds_which_both_have(own, control):
    found = [outcome("fixmatch", seed, value) for seed, value in own.items()]
    found += [outcome("knn", seed, value) for seed, value in control.items()]
    row, shared = group_rows(found)[0], sorted(own.keys() & control.keys())
    assert row.accuracy == pytest.approx(tuple(own.values()))
    if not shared:
        assert not row.differences
        return
    a, b = [own[seed] for seed in shared], [control[seed] for seed in shared]
    gap = row.differences["knn"]
    assert gap.mean == pytest.approx(sum(a) / len(a) - sum(b) / len(b), abs=1e-9)
    if len(shared) > 1 and len({x - y for x, y in zip(a, b, strict=True)}) > 1:
        interval = stats.ttest_rel(a, b).confidence_interval(0.95)
        assert gap.half_width == pytest.approx((interval.high - interval.low) / 2, abs=1e-6)


def test_caches_and_budgets_are_kept_apart():
    given = results(cache="a", linear=[10.0], knn=[20.0]) + results(cache="b", linear=[50.0])
    given += [outcome("linear", 0, 30.0, cache="a", labels_per_class=None, num_labels=20)]
    rows = cells(given)
    named = [(row["cache"], row["labels"], row["objective"], row["accuracy %"]) for row in rows]
    assert named == [
        ("a", "4/class", "linear", "10.0"),
        ("a", "4/class", "knn", "20.0"),
        ("b", "4/class", "linear", "50.0"),
        ("a", "20 in all", "linear", "30.0"),
    ]
    assert [row["minus linear"] for row in rows] == ["", "+10.0", "", ""]


def test_mean_and_spread():
    row = cells(results(knn=[50.0, 60.0, 70.0]))[0]
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
    given = [outcome("knn", seed, 50.0, more={"open_set": {"auroc": 0.7 + seed / 10}}) for seed in (0, 1)]
    rows = cells([*given, *results(cache="d", knn=[50.0])])
    assert [row["AUROC"] for row in rows] == ["0.750", ""]


def test_aligned_for_a_terminal():
    text = results_table(group_rows(results(linear=[10.0], supervised=[90.0]))).text()
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
    controls = {"zero_shot": [50] * 5, "knn": [60, 61, 65, 61, 63], "linear": [40, 70, 60, 60, 60]}
    given = results(**controls, twinturbo=[70, 72, 74, 71, 73])
    rows = {row["objective"]: row for row in cells(given)}
    assert rows["twinturbo"]["minus best control"] == "**+10.0 ± 0.9** (knn)"
    assert rows["knn"]["minus best control"] == ""
    assert rows["zero_shot"]["minus best control"] == "**-12.0 ± 2.5** (knn)"
    assert rows["linear"]["minus linear"] == ""


def test_without_a_control_there_is_no_column_for_the_best():
    assert "control" not in results_table(group_rows(results(twinturbo=[50, 60]))).markdown()


@pytest.mark.parametrize(
    ("draws", "said"), [(1, "Only 1 label draw:"), (4, "Only 4 label draws:"), (5, ""), (9, "")]
)
def test_a_note_where_draws_are_few(draws, said):
    given = results(linear=[50.0] * 9, knn=[60.0] * draws)
    found = [note for note in notes(group_rows(given)) if note.startswith("Only ")]
    assert len(found) == bool(said)
    assert all(note.startswith(said) for note in found)


def test_notes_say_what_the_figures_are_where_there_are_any():
    single = notes(group_rows(results(twinturbo=[50.0])))
    assert [note.partition(":")[0] for note in single] == ["Only 1 label draw"]
    several = notes(group_rows(results(linear=[50.0, 51.0, 53.0], knn=[60.0, 60.0, 61.0])), "*")
    names = [note.partition(":")[0] for note in several]
    assert names == ["accuracy %", "minus NAME", "best control", "Only 3 label draws"]
    assert "; *: " in several[1]


def test_other_references_have_columns_of_their_own():
    found = results(linear=[50, 60, 70, 75, 79], naive=[70, 80, 90, 95, 99], mixed=[73, 82, 91, 97, 100])
    rows = {row["objective"]: row for row in cells(found, ("naive",))}
    expected = paired([73, 82, 91, 97, 100], [70, 80, 90, 95, 99])
    assert rows["mixed"]["minus naive"] == difference_text(expected)
    assert rows["linear"]["minus naive"].startswith("**-")
    assert rows["naive"]["minus naive"] == ""
    assert rows["mixed"]["minus best control"].endswith("(linear)")
    assert "minus naive" not in results_table(group_rows(found)).head


def test_settings_are_rows_of_their_own_and_each_setting_of_a_control_is_a_control():
    found = [outcome("twinturbo", seed, 80.0 + seed, setting="w=1") for seed in range(5)]
    found += [outcome("twinturbo", seed, 85.0 + seed, setting="w=2") for seed in range(5)]
    found += [outcome("linear", seed, 70.0 + seed, setting="c=1") for seed in range(5)]
    found += [outcome("linear", seed, 60.0 + seed, setting="c=9") for seed in range(5)]
    rows = {row["objective"]: row for row in cells(found)}
    assert list(rows) == ["twinturbo w=1", "twinturbo w=2", "linear c=1", "linear c=9"]
    assert [row["minus linear c=1"][:7] for row in rows.values()] == ["**+10.0", "**+15.0", "", "**-10.0"]
    assert rows["twinturbo w=1"]["minus linear c=9"] == "**+20.0 ± 0.0**"
    assert rows["linear c=9"]["minus best control"] == "**-10.0 ± 0.0** (linear c=1)"


def test_a_row_as_json():
    one, many = group_rows([outcome("linear", 0, 50.0), *results(knn=[60, 62, 64])])
    assert json.loads(json.dumps(one.as_dict()))["differences"] == {
        "knn": {"mean": -10.0, "half_width": None, "clear": False}
    }
    said = many.as_dict()
    assert (said["labels"], said["draws"], said["accuracy"], said["accuracy_std"]) == (
        "4/class",
        3,
        62.0,
        2.0,
    )
    assert said["accuracies"] == [60.0, 62.0, 64.0]


def many():
    """14 objectives, four budgets."""
    return [
        outcome(name, seed, 50.0 + seed + number, labels_per_class=budget)
        for number, name in enumerate(("linear", "supervised", *(f"objective_{n}" for n in range(12))))
        for budget in (1, 2, 4, 8)
        for seed in range(5)
    ]


@pytest.mark.parametrize("width", [80, 100, 120])
def test_a_table_is_no_wider_than_the_terminal_and_says_what_it_leaves_out(width):
    rows = group_rows(many())
    text = terminal_text(rows, width=width)
    assert max(map(len, text.splitlines())) <= width
    table = results_table(rows)
    shown = next(line for line in text.splitlines() if line.startswith(("labels", "cache  ")))
    out = " ".join(text.split()).partition("Left out, as the terminal is narrow: ")[2]
    for name in table.head:
        if name != "cache":
            assert (name in re.split(r"\s{2,}", shown)) != (name in out.rstrip(".").split(", ")), name
    assert "accuracy %" in shown
    assert text.startswith("cache: c\n")


def test_without_a_limit_a_table_is_whole():
    rows = group_rows(many())
    assert terminal_text(rows, width=10_000).startswith(results_table(rows).text())


def test_csv_has_the_numbers():
    rows = group_rows(results(linear=[50.0, 60.0], twinturbo=[70.0, 81.0]))
    first, second = csv.DictReader(csv_text(rows).splitlines())
    assert float(second["accuracy"]) == 75.5
    assert float(second["minus linear"]) == 20.5
    assert (first["minus linear"], second["draws"]) == ("", "2")


def test_latex_escapes_what_it_would_read():
    text = Table(["a_b & c"], [["50 % {x} ~^\\"]]).latex()
    assert r"a\_b \& c" in text
    assert r"50 \% \{x\} \textasciitilde{}\textasciicircum{}\textbackslash{}" in text
