"""Settings selected without test labels, rule by rule, and the accuracy that each selection gives."""

from featcache.results.grid import GridCell
from featcache.results.selection import apply_rules, select_settings, selections_table


def result(accuracy, scores, held_out=None, seed=0):
    return {
        "seed": seed,
        "labels_per_class": 2,
        "num_labels": 4,
        "scores": scores,
        "held_out": held_out,
        "test": {"accuracy": accuracy},
    }


def test_each_rule_by_hand():
    """Ranks by a: 3, 1, 2; by b: 2, 3, 1. The vote takes the third, which is not the best."""
    draw = [result(0.9, {"a": 0, "b": 5}), result(0.5, {"a": 9, "b": 4}), result(0.6, {"a": 8, "b": 6})]
    found = apply_rules([draw, draw[:1]])
    assert found == {"vote": [2, 0], "a": [1, 0], "b": [2, 0], "default": [0, 0], "oracle": [0, 0]}
    assert next(iter(found)) == "vote"


def test_cross_validation_goes_before_the_vote_and_the_likelihood_decides_a_tie():
    held = [{"accuracy": a, "nll": n} for a, n in ((0.5, 0.1), (0.8, 0.9), (0.8, 0.4))]
    draw = [result(0.5, {"a": -n}, h) for n, h in enumerate(held)]
    assert next(iter(apply_rules([draw]).items())) == ("cross-validation", [2])
    assert apply_rules([draw])["vote"] == [0]
    assert "cross-validation" not in apply_rules([draw, [result(0.5, {"a": 0})]])


def test_no_rule_but_the_oracle_looks_at_a_test():
    scored = [({"a": 1.0, "b": 3.0}, {"accuracy": 0.5, "nll": 1.0}), ({"a": 2.0, "b": 1.0}, None)]
    one, other = ([result(a, *s) for a, s in zip(test, scored, strict=True)] for test in ((0, 1), (1, 0)))
    picked, again = apply_rules([one]), apply_rules([other])
    assert [name for name in picked if picked[name] != again[name]] == ["oracle"]


def test_a_choice_is_made_for_each_draw():
    trained = []
    for seed, best in enumerate((0, 1, 1)):
        for number, setting in enumerate(("", "w=1")):
            cell = GridCell("c", "x", setting, "labels_per_class=2", seed)
            trained.append((cell, result(0.5 + 0.1 * number, {"a": float(number == best)}, seed=seed)))
    trained.append((GridCell("c", "knn", "", "labels_per_class=2", 0), result(0.3, {})))
    outcomes, made = select_settings(trained)
    assert [o.result["test"]["accuracy"] for o in outcomes] == [0.5, 0.6, 0.6, 0.3]
    by_rule = {selection.rule: selection for selection in made}
    assert list(by_rule) == ["vote", "a", "default", "oracle"]
    assert by_rule["vote"].settings == ("default", "w=1", "w=1")
    shown = selections_table(made).markdown().splitlines()
    assert shown[2] == (
        "| c | 2/class | x | vote | 56.7 ± 5.8 | -3.3 ± 14.3 | +6.7 ± 14.3 | w=1 (2), default (1) |"
    )
    assert shown[-1].startswith("| c | 2/class | x | oracle (test labels) | 60.0 ± 0.0 |  | +10.0 ±")
