"""FineSSL's memory of the unlabelled samples, against a loop over many steps."""

from __future__ import annotations

import math
import pickle
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from featcache.batch import Batch, Features
from featcache.objectives._margins import class_margins, learning_status
from featcache.objectives.base import Task
from featcache.objectives.finessl import FineSSL, FineSSLOptions


def margins_by_hand(latest: list[int], classes: int, alpha: float) -> list[float]:
    counts = Counter(c for c in latest if c >= 0)
    most = max(counts.values(), default=1)
    learned = [counts[c] / most for c in range(classes)]
    return [alpha * (max(learned) - min(learned)) * (1 - s) / (1 + s) for s in learned]


@given(latest=st.lists(st.integers(-1, 4), max_size=30), alpha=st.floats(0, 10))
@settings(max_examples=50, deadline=None)
def test_margins_match_loops(latest: list[int], alpha: float) -> None:
    margins = class_margins(learning_status(torch.tensor(latest, dtype=torch.int64), 5), alpha)
    assert margins.tolist() == pytest.approx(margins_by_hand(latest, 5, alpha), rel=1e-5)
    assert margins.min() == 0
    assert margins.max() <= alpha + 1e-5


def toy(classes: int, num_unlabelled: int) -> FineSSL:
    """Build an objective whose prediction is the largest entry of the pooled embedding."""
    counts, center = torch.ones(classes, dtype=torch.int64), torch.zeros(classes)
    task = Task(classes, classes, classes, num_unlabelled, counts, center, torch.eye(classes))
    return FineSSL(FineSSLOptions(), task)


def step(objective: FineSSL, batch: Batch) -> tuple[torch.Tensor, Any]:
    """The loss and terms of a step in which z is the pooled embedding."""
    return objective(lambda features: features.pooled, batch, 0.5, torch.Generator())


def as_batch(index: list[int], predicted: list[int], sure: list[bool], classes: int) -> Batch:
    """Return unlabelled samples with given predictions, of high or low confidence."""
    z = torch.where(torch.tensor(sure).unsqueeze(1), 1.0, 0.01) * F.one_hot(torch.tensor(predicted), classes)
    z = z + torch.where(torch.tensor(sure).unsqueeze(1), 0.0, 1.0)
    view = Features(z.unsqueeze(1), None, z)
    own = Features(torch.eye(classes).unsqueeze(1), None, torch.eye(classes))
    return Batch((own,), torch.arange(classes), (view, view, view), torch.tensor(index))


@st.composite
def histories(draw: st.DrawFn) -> tuple[int, int, list[tuple[list[int], list[int], list[bool]]]]:
    classes, rows, size = draw(st.integers(2, 4)), draw(st.integers(1, 9)), draw(st.integers(1, 4))
    size = min(size, rows)
    batch = st.tuples(
        st.lists(st.integers(0, rows - 1), min_size=size, max_size=size, unique=True),
        st.lists(st.integers(0, classes - 1), min_size=size, max_size=size),
        st.lists(st.booleans(), min_size=size, max_size=size),
    )
    return classes, rows, draw(st.lists(batch, min_size=1, max_size=8))


@given(history=histories())
@settings(max_examples=40, deadline=None)
def test_the_memory_matches_a_loop(history: Any) -> None:
    classes, rows, batches = history
    objective = toy(classes, rows)
    latest: list[int] = []
    steps_per_pass = math.ceil(rows / len(batches[0][0]))
    for n, (index, predicted, sure) in enumerate(batches):
        if n % steps_per_pass == 0:
            latest = [-1] * rows
        expected = max(margins_by_hand(latest, classes, 8.0))
        _, terms = step(objective, as_batch(index, predicted, sure, classes))
        assert terms["margin"].item() == pytest.approx(expected, rel=1e-5)
        for i, y, certain in zip(index, predicted, sure, strict=True):
            latest[i] = y if certain else latest[i]
        assert objective.status.tolist() == latest


def test_the_memory_survives_a_checkpoint() -> None:
    batches = [as_batch([n % 5, 5 + n], [n % 3, 0], [True, n % 2 == 0], 3) for n in range(5)]
    through, first = toy(3, 10), toy(3, 10)
    for batch in batches[:3]:
        for objective in (through, first):
            step(objective, batch)
    second = toy(3, 10)
    second.load_state_dict(pickle.loads(pickle.dumps(first.state_dict())))
    for batch in batches[3:]:
        one, two = (step(objective, batch)[0] for objective in (through, second))
        assert torch.equal(one, two)
    assert torch.equal(through.status, second.status)
    assert through.seen == second.seen == 10


def test_evaluation_remembers_nothing() -> None:
    objective = toy(3, 10).eval()
    step(objective, as_batch([1, 2], [0, 1], [True, True], 3))
    assert objective.status.eq(-1).all()
    assert objective.seen == 0
