"""The table of what was gained and what was forgotten, cell by cell."""

from featcache.results.probes import probes_table
from featcache.results.rows import Outcome
from featcache.results.statistics import paired
from featcache.results.table import difference_text

BEFORE, NAIVE, MIXED = [0.5, 0.6, 0.7], [0.6, 0.7, 0.9], [0.65, 0.74, 0.91]


def result(seed, probes=None):
    found = {"seed": seed, "labels_per_class": 4, "num_labels": 12}
    return found | ({"probes": probes} if probes else {})


def cells(table):
    return [dict(zip(table.head, row, strict=True)) for row in table.rows]


def results(figure, **afters):
    return [
        Outcome("c", name, result(seed, {f"{figure}_before": before, f"{figure}_after": after}))
        for name, values in afters.items()
        for seed, (before, after) in enumerate(zip(BEFORE, values, strict=True))
    ]


def test_before_after_and_what_lies_between():
    found = [*results("target_knn", naive=NAIVE, mixed=MIXED), Outcome("c", "linear", result(0))]
    naive, mixed = cells(probes_table(found, ("naive",)))
    assert (naive["objective"], naive["probe"], naive["labels"]) == ("naive", "target, k-NN", "4/class")
    assert (mixed["before %"], mixed["after %"]) == ("60.0 ± 10.0", "76.7 ± 13.2")
    percent = [[100 * value for value in values] for values in (BEFORE, NAIVE, MIXED)]
    assert mixed["after minus before"] == difference_text(paired(percent[2], percent[0]))
    assert mixed["after minus naive"] == difference_text(paired(percent[2], percent[1]))
    assert naive["after minus naive"] == ""


def test_only_figures_that_are_there():
    assert probes_table([Outcome("c", "linear", result(0))]) is None
    rows = cells(probes_table(results("replay_linear", naive=NAIVE)))
    assert [row["probe"] for row in rows] == ["replay cache, linear"]
