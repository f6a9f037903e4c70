"""The terms that objectives and estimators are made of: each is used, and they agree with each other."""

from __future__ import annotations

import ast
import inspect
import math
from pathlib import Path

import pytest
import torch

import featcache
from featcache.mi import infonce, terms

PUBLIC = [
    name
    for name, value in inspect.getmembers(terms, inspect.isfunction)
    if value.__module__ == terms.__name__ and not name.startswith("_")
]


def names_in_use() -> set[str]:
    """The names that are read in the module of terms, and in those that import from it."""
    found: set[str] = set()
    for path in Path(featcache.__file__).parent.rglob("*.py"):
        text = path.read_text()
        if path == Path(terms.__file__) or "from featcache.mi.terms import" in text:
            found |= {node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)}
    return found


def test_every_term_is_used() -> None:
    assert PUBLIC
    assert set(PUBLIC) <= names_in_use()


def test_infonce_is_one_bound_in_three_forms() -> None:
    x, y = torch.randn(2, 12, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scores = terms.cosine_scores(x, y, tau=0.3)
    decomposed = -(terms.align(x, y, 0.3) + terms.uniform(x, y, 0.3))
    assert math.log(12) - terms.info_nce(scores).item() == pytest.approx(decomposed.item())
    assert infonce(scores).estimate.item() == pytest.approx(decomposed.item())


def test_a_target_may_be_soft() -> None:
    scores = torch.tensor([[2.0, 0.0, 1.0]], dtype=torch.float64)
    log_q = scores.log_softmax(1)[0]
    loss = terms.info_nce(scores, torch.tensor([[0.25, 0.0, 0.75]]))
    assert loss.item() == pytest.approx(-(0.25 * log_q[0] + 0.75 * log_q[2]).item())
