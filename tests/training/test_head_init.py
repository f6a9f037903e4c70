"""Cosine heads start at the optimum of the penalised likelihood, where its gradient is zero."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from featcache.nn.heads import SCALE, CosineHead
from featcache.nn.init import centred, unit
from featcache.training.head_init import C, center_of, class_directions


def clusters(classes=4, each=3, dim=6, seed=0):
    """Embeddings of very different length around a direction for each class, all far from zero."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.arange(classes).repeat_interleave(each)
    mean = torch.randn(classes, dim, generator=generator)
    z = 3 + mean[label] + 0.3 * torch.randn(len(label), dim, generator=generator)
    return z * torch.rand(len(z), 1, generator=generator).add(0.1).exp(), label


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("classes", [2, 4])
def test_the_gradient_of_the_penalised_likelihood_is_zero_there(classes: int, named: bool) -> None:
    pooled, label = clusters(classes)
    center = center_of(pooled)
    text = torch.randn(classes, 6, generator=torch.Generator().manual_seed(1)) if named else None
    weight = class_directions(pooled, label, center, classes, text).double().requires_grad_()
    x, y = centred(pooled, center), label
    if text is not None:
        x, y = torch.cat([x, centred(text, unit(text).mean(0))]), torch.cat([y, torch.arange(classes)])
    nll = F.cross_entropy(SCALE * x.double() @ weight.T, y, reduction="sum")
    loss = nll + weight.square().sum() / (2 * C)
    (slope,) = torch.autograd.grad(loss, weight)
    assert slope.abs().max() < 1e-2
    assert weight.abs().max() > 0.5 * C  # zero is no optimum


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 5), st.integers(1, 3), st.integers(0, 99))
def test_classes_and_samples_may_come_in_any_order(classes: int, each: int, seed: int) -> None:
    pooled, label = clusters(classes, each, seed=seed)
    rng = np.random.default_rng(seed)
    order, name = torch.from_numpy(rng.permutation(len(label))), torch.from_numpy(rng.permutation(classes))
    center = center_of(pooled)
    plain = class_directions(pooled, label, center, classes)
    shuffled = class_directions(pooled[order], name[label[order]], center, classes)
    torch.testing.assert_close(shuffled[name], plain, rtol=0, atol=2e-3)


def test_the_head_starts_beyond_class_means_where_they_fail() -> None:
    """Two classes that differ in one small coordinate, beside a large one."""
    generator = torch.Generator().manual_seed(0)
    label = torch.arange(2).repeat(100)
    z = torch.stack([torch.randn(200, generator=generator), 0.1 * (label * 2.0 - 1), torch.ones(200)], dim=1)
    center, few = center_of(z), torch.tensor([0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
    head = CosineHead(class_directions(z[few], label[few], center, 2), center)
    means = torch.stack([centred(z, center)[few][label[few] == c].mean(0) for c in (0, 1)])
    accuracy, by_means = (
        (one(z).argmax(1) == label).float().mean().item() for one in (head, CosineHead(means, center))
    )
    assert accuracy > by_means + 0.1


def test_a_class_of_which_nothing_is_known_has_no_direction() -> None:
    pooled, label = clusters(3)
    found = class_directions(pooled, 2 * label, center_of(pooled), 5)
    assert found.norm(dim=1).gt(0).tolist() == [True, False, True, False, True]


def test_names_alone_and_one_class_alone() -> None:
    text = torch.eye(3)
    none = torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)
    assert class_directions(*none, torch.zeros(3), 3, text).argmax(1).tolist() == [0, 1, 2]
    assert class_directions(*none, torch.zeros(3), 3).abs().sum() == 0
    pooled, center = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.zeros(2)
    only = class_directions(pooled, torch.tensor([1, 1]), center, 2)
    assert only.tolist() == [[0.0, 0.0], [0.5, 0.5]]
