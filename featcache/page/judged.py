"""The figures of a run by class: recall, confusion and reliability, of its test or of held-out labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from featcache.api.run import Run
from featcache.training.calibration import calibration
from featcache.training.estimate import binomial_interval
from featcache.training.held_out import load_held_out
from featcache.training.learners import class_names_of
from featcache.training.metrics import evaluate

MATRIX = 40
"""Most classes of a confusion matrix that a person can read; beyond, the commonest confusions are listed."""
CONFUSED = 30
"""Most pairs of classes to list."""
Content = dict[str, Any]


def judged(run: Run) -> Content | None:
    """Return `what` was judged, `classes`, `confused`, `matrix` and `reliability`; None if nothing was.

    It is the test, the samples that were set aside, or else the labels of the training, each predicted by a
    model which did not see it.
    """
    figures, names = run.figures, class_names_of(run)
    for key, what in (("test", "test samples"), ("holdout", "labelled samples set aside")):
        if "confusion" in (found := figures.get(key) or {}):
            return _content(found, names, f"{found['samples']:,} {what}")
    held = load_held_out(run)
    if held is None or not held.known.any():
        return None
    log_probs, label = held.log_probs[held.known], held.label[held.known]
    found = evaluate(log_probs, label, names)
    found |= calibration(log_probs, label, float(figures.get("temperature", 1.0)))
    what = f"{len(label):,} labelled samples, each predicted by models that did not see it"
    return _content(found, names, what)


def _content(found: Mapping[str, Any], names: Sequence[str], what: str) -> Content:
    confusion = np.array(found["confusion"])
    return {
        "what": what,
        "classes": _classes(confusion, names),
        "confused": _confused(confusion, names),
        "matrix": {"names": list(names), "counts": confusion.tolist()} if len(names) <= MATRIX else None,
        "reliability": found.get("reliability"),
        "nll": [found["nll"], found.get("nll_scaled")],
        "ece": [found["ece"], found.get("ece_scaled")],
    }


def _classes(confusion: Any, names: Sequence[str]) -> list[Content]:
    """Return samples, recall with its interval, and precision of each class; None where there is nothing."""
    found = []
    for number, name in enumerate(names):
        right, true = int(confusion[number, number]), int(confusion[number].sum())
        said = int(confusion[:, number].sum())
        low, high = binomial_interval(right, true) if true else (None, None)
        found.append(
            {
                "name": name,
                "samples": true,
                "recall": right / true if true else None,
                "low": low,
                "high": high,
                "precision": right / said if said else None,
            }
        )
    return found


def _confused(confusion: Any, names: Sequence[str]) -> list[Content]:
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:CONFUSED]
    pairs = zip(*np.unravel_index(order, wrong.shape), strict=True)
    return [
        {"truth": names[true], "prediction": names[said], "count": int(wrong[true, said])}
        for true, said in pairs
        if wrong[true, said]
    ]
