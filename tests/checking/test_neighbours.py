"""Near pairs against all pairs, whatever the chunks and however many copies there are."""

from __future__ import annotations

import numpy as np
import pytest

from featcache.checking import neighbours
from featcache.checking.neighbours import Twins, near_pairs


@pytest.fixture(scope="module")
def points() -> np.ndarray:
    """400 rows in 30 dimensions about 5 centres and far from zero; 60 are copies, of growing distance."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((5, 30))[rng.integers(0, 5, 400)] + 0.5 * rng.standard_normal((400, 30)) + 2
    x[340:] = x[:60] + rng.standard_normal((60, 30)) * np.linspace(0, 0.3, 60)[:, None]
    x[10] = x[11] = x[12]
    return x.astype(np.float16).astype(np.float32)


@pytest.mark.parametrize("chunk", [7, 4096])
@pytest.mark.parametrize("near", [0.0, 0.1, 0.25])
def test_as_all_pairs(points: np.ndarray, near: float, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "CHUNK", chunk)
    found = near_pairs(lambda rows: points[rows], len(points), near=near, rounding=2.0**-10)
    sample = np.sort(np.random.default_rng(0).choice(400, 400, replace=False))
    unit = points - points[sample].mean(0)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    distance = np.linalg.norm(unit[:, None] - unit[None], axis=2)
    raw = np.linalg.norm(points[:, None] - points[None], axis=2)
    size = np.linalg.norm(points, axis=1)
    same = raw <= 2.0**-10 * np.maximum(size[:, None], size[None])
    expected = set(zip(*np.nonzero(np.triu((distance <= found.radius) | same, 1)), strict=True))
    # Of three identical rows the later two are linked to the first, and to nothing else.
    expected = {pair for pair in expected if not {11, 12} & {*pair}} | {(10, 11), (10, 12)}
    got = set(zip(found.first.tolist(), found.second.tolist(), strict=True))
    assert got == expected
    assert (same[found.first, found.second] == found.same).all()
    assert len(got) > {0.0: 1, 0.1: 9, 0.25: 20}[near]


def test_a_collapsed_model_does_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "MOST_PAIRS", 1000)
    line = np.random.default_rng(0).standard_normal((900, 1)) * np.ones(4)
    found = near_pairs(lambda rows: line[rows].astype("f4"), 900, near=0.25, rounding=2.0**-10)
    assert len(found.first) < 2500


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_hardly_any_rows(rows: int) -> None:
    x = np.ones((rows, 3), np.float32)
    found = near_pairs(lambda index: x[index], rows, near=0.25, rounding=2.0**-10)
    assert found.same.tolist() == [True] * (rows // 2)


def test_twins_are_the_same_up_to_float16(points: np.ndarray) -> None:
    twins = Twins(points[:50].astype(np.float16).astype(np.float32), 2.0**-10)
    others = np.concatenate([points[200:210], points[[7, 12]] * (1 + 2e-4), points[[20]] * 1.01])
    assert twins.of(others) == [(10, 7), (11, 10)]
    assert Twins(points[:0], 2.0**-10).of(others) == []
