"""The probes against direct computations and at their edges."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from featcache.errors import TrainError
from featcache.objectives._fitting import FLOOR
from featcache.objectives.base import ProbeData
from featcache.objectives.knn import Knn, KnnOptions
from featcache.objectives.linear import Linear, LinearOptions
from featcache.objectives.zero_shot import ZeroShot, ZeroShotOptions

PROBES = [Knn(KnnOptions()), Linear(LinearOptions())]


def draw(seed: int, rows: int, dim: int = 6) -> Tensor:
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed))


def digits(per_class: int, seed: int) -> tuple[ProbeData, Tensor, Tensor]:
    from sklearn.datasets import load_digits

    x, y = (torch.tensor(array) for array in load_digits(return_X_y=True))
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    picked = torch.cat([order[y[order] == c][:per_class] for c in range(10)])
    return ProbeData(x[picked].float(), y[picked].long(), 10, None), x[order[-800:]].float(), y[order[-800:]]


def test_zero_shot_is_the_softmax_of_cosines() -> None:
    text, query = draw(0, 3), draw(1, 4)
    data = ProbeData(draw(2, 1), torch.tensor([0]), 3, text)
    cosine = torch.cosine_similarity(query[:, None], text[None], dim=-1)
    expected = torch.log_softmax(cosine / 0.07, dim=1)
    torch.testing.assert_close(ZeroShot(ZeroShotOptions()).fit(data, 0)(query), expected)


def test_zero_shot_says_what_is_missing() -> None:
    with pytest.raises(TrainError, match=r"class-name embeddings[\s\S]*text tower"):
        ZeroShot(ZeroShotOptions()).fit(ProbeData(draw(0, 2), torch.tensor([0, 1]), 2, None), 0)


@pytest.mark.parametrize("k", [1, 3, 50])
def test_knn_matches_a_loop(k: int) -> None:
    data = ProbeData(draw(0, 10), torch.arange(10) % 3, 3, None)
    query = draw(1, 4)
    unit = [x / x.norm() for x in data.pooled]
    mean = sum(unit, start=torch.zeros(6)) / len(unit)
    known = torch.stack(unit) - mean
    rows = []
    for one in query:
        cosine = torch.cosine_similarity(one / one.norm() - mean, known, dim=-1)
        near = cosine.argsort(descending=True)[:k].tolist()
        votes = [sum(math.exp(cosine[i] / 0.07) for i in near if i % 3 == c) for c in range(3)]
        rows.append([math.log(max(vote / sum(votes), FLOOR)) for vote in votes])
    torch.testing.assert_close(
        Knn(KnnOptions(k=k)).fit(data, 0)(query), torch.tensor(rows), atol=1e-4, rtol=1e-4
    )


def test_knn_at_a_very_low_temperature_follows_the_nearest() -> None:
    data = ProbeData(draw(0, 10), torch.arange(10) % 3, 3, None)
    cold = Knn(KnnOptions(temperature=1e-5)).fit(data, 0)(-data.pooled)
    nearest = Knn(KnnOptions(k=1)).fit(data, 0)(-data.pooled)
    assert torch.isfinite(cold).all()
    assert torch.equal(cold.argmax(1), nearest.argmax(1))


def test_knn_does_not_mind_that_embeddings_are_far_from_zero() -> None:
    """The cosines of the raw embeddings are all near one, so all votes would be equal."""
    data, query, label = digits(8, seed=0)

    def accuracy(shift: float) -> float:
        moved = data.__class__(data.pooled + shift, data.label, 10, None)
        predicted = Knn(KnnOptions()).fit(moved, 0)(query + shift)
        return float((predicted.argmax(1) == label).float().mean())

    assert accuracy(100.0) > accuracy(0.0) - 0.05


@pytest.mark.parametrize("probe", PROBES, ids=["knn", "linear"])
@pytest.mark.parametrize("label", [[2], [2, 2], [0, 2], [0, 2, 2, 0]])
def test_classes_without_labels_are_finite_and_last(probe: Any, label: list[int]) -> None:
    data = ProbeData(draw(0, len(label)), torch.tensor(label), 4, None)
    predicted = probe.fit(data, 0)(draw(1, 5))
    missing = sorted({0, 1, 2, 3} - set(label))
    assert predicted.shape == (5, 4)
    assert torch.isfinite(predicted).all()
    assert predicted[:, missing].max() < -25
    assert set(predicted.argmax(1).tolist()) <= set(label)
    torch.testing.assert_close(predicted.exp().sum(1), torch.ones(5))


@pytest.mark.parametrize("probe", PROBES, ids=["knn", "linear"])
def test_the_scale_of_embeddings_does_not_matter(probe: Any) -> None:
    data, query, _ = digits(3, seed=0)
    large = data.__class__(1000 * data.pooled, data.label, 10, None)
    torch.testing.assert_close(
        probe.fit(large, 0)(1000 * query[:50]), probe.fit(data, 0)(query[:50]), atol=1e-3, rtol=1e-3
    )


def test_linear_on_real_digits_is_as_good_as_any_single_regularisation() -> None:
    """C is chosen on the labelled samples only, and is within two points of the best C on the test set."""
    data, query, label = digits(8, seed=1)

    def accuracy(c: float | None) -> float:
        predicted = Linear(LinearOptions(C=c)).fit(data, 0)(query)
        return float((predicted.argmax(1) == label).float().mean())

    assert accuracy(None) >= max(accuracy(10.0**power) for power in range(-4, 2)) - 0.02
    assert accuracy(None) > 0.85
