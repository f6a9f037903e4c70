"""Margin softmax and label smoothing against loops, torch, finite differences and limits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from featcache.objectives._margins import class_margins, margin_cross_entropy, smoothed_cross_entropy

shapes = st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(0, 999))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some(rows: int, classes: int, seed: int) -> tuple[Tensor, Tensor]:
    logits = 3 * torch.randn(rows, classes, generator=generator(seed), dtype=torch.float64)
    return logits, torch.randint(classes, (rows,), generator=generator(seed))


def cross_entropy_by_hand(row: list[float], target: list[float]) -> float:
    shifted = np.exp(np.array(row) - max(row))
    return float(-(np.array(target) * np.log(shifted / shifted.sum())).sum())


def margin_by_hand(row: list[float], y: int, margin: float) -> float:
    raised = [value + (0 if k == y else margin) for k, value in enumerate(row)]
    return cross_entropy_by_hand(raised, [float(k == y) for k in range(len(row))])


def smooth_by_hand(row: list[float], y: int, eps: float) -> float:
    classes = len(row)
    return cross_entropy_by_hand(row, [1 - eps if k == y else eps / (classes - 1) for k in range(classes)])


@given(shape=shapes, eps=st.floats(0, 0.99), alpha=st.floats(0, 10))
@settings(max_examples=50, deadline=None)
def test_cross_entropies_match_loops(shape: tuple[int, int, int], eps: float, alpha: float) -> None:
    logits, label = some(*shape)
    margins = alpha * torch.rand(shape[1], generator=generator(), dtype=torch.float64)
    pairs = list(zip(logits.tolist(), label.tolist(), strict=True))
    assert margin_cross_entropy(logits, label, margins).tolist() == pytest.approx(
        [margin_by_hand(row, y, margins[y].item()) for row, y in pairs], abs=1e-9
    )
    if shape[1] > 1:
        assert smoothed_cross_entropy(logits, label, eps).tolist() == pytest.approx(
            [smooth_by_hand(row, y, eps) for row, y in pairs], abs=1e-9
        )


@given(shape=shapes)
@settings(max_examples=20, deadline=None)
def test_without_margin_or_smoothing_they_are_cross_entropy(shape: tuple[int, int, int]) -> None:
    logits, label = some(*shape)
    plain = F.cross_entropy(logits, label, reduction="none")
    uneven = torch.rand(shape[1], generator=generator())
    for margins in (class_margins(uneven, 0.0), class_margins(torch.full((shape[1],), 0.4), 8.0)):
        torch.testing.assert_close(margin_cross_entropy(logits, label, margins), plain)
    torch.testing.assert_close(smoothed_cross_entropy(logits, label, 0.0), plain)


def test_smoothing_is_that_of_torch_with_another_share() -> None:
    logits, label = some(6, 4, 0)
    torchs = F.cross_entropy(logits, label, reduction="none", label_smoothing=0.3 * 4 / 3)
    torch.testing.assert_close(smoothed_cross_entropy(logits, label, 0.3), torchs)


def test_term_gradients_are_those_of_finite_differences() -> None:
    logits, label = some(4, 3, 0)
    logits.requires_grad_()
    margins = torch.tensor([0.0, 2.0, 8.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: margin_cross_entropy(x, label, margins), logits)
    assert torch.autograd.gradcheck(lambda x: smoothed_cross_entropy(x, label, 0.5), logits)


@pytest.mark.parametrize("classes", [2, 1000])
def test_terms_of_confident_and_wrong_logits(classes: int) -> None:
    """In float32, where the probability of the label is zero."""
    logits = torch.zeros(1, classes)
    logits[0, 0] = 1e4
    logits.requires_grad_()
    label, margins = torch.tensor([classes - 1]), torch.full((classes,), 8.0)
    loss = margin_cross_entropy(logits, label, margins), smoothed_cross_entropy(logits, label, 0.5)
    assert loss[0].item() == pytest.approx(1e4 + 8)
    assert loss[1].item() == pytest.approx(1e4 * (1 - 0.5 / (classes - 1)), rel=1e-4)
    torch.stack(loss).sum().backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
