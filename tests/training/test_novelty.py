"""Novelty: a share of the run's own samples, from their classes and their density."""

from __future__ import annotations

import numpy as np
import pytest

from featcache.errors import TrainError
from featcache.runs.run import RunFolder
from featcache.runs.saved import REFERENCE
from featcache.training.novelty import Reference, reference_rows


def clusters(rng, n, *, classes=3, dim=16, spread=0.15):
    centres = np.eye(classes + 2, dim)
    label = np.arange(n) % classes
    return centres[label] + spread * rng.standard_normal((n, dim)), label, centres


@pytest.fixture
def reference():
    rows, label, _ = clusters(np.random.default_rng(0), 600)
    return Reference.like(rows, np.where(np.arange(600) < 30, label, -1))


def test_samples_like_the_training_are_evenly_novel(reference):
    rows, _, _ = clusters(np.random.default_rng(1), 2000)
    found = reference.novelty(rows)
    assert 0 <= found.min() <= found.max() <= 1
    for level in (0.5, 0.8, 0.95):
        assert (found >= level).mean() == pytest.approx(1 - level, abs=0.06)


def test_other_classes_and_noise_are_novel(reference):
    rng = np.random.default_rng(2)
    _, _, centres = clusters(rng, 3)
    assert (reference.novelty(centres[[3, 4]] + 0.1 * rng.standard_normal((2, 16))) > 0.99).all()
    assert (reference.novelty(rng.standard_normal((50, 16))) > 0.95).mean() > 0.9


def test_a_class_that_is_common_but_has_no_label_is_novel():
    """As `data.unknown_classes`: it is among the training samples, so density says nothing."""
    rows, label, _ = clusters(np.random.default_rng(3), 600)
    known = label < 2
    reference = Reference.like(rows, np.where(known & (np.arange(600) < 60), label, -1))
    found = reference.novelty(rows[300:])
    assert found[label[300:] == 2].min() > np.median(found[known[300:]])


def test_a_labelled_sample_does_not_vouch_for_itself():
    """Thirty labelled samples and nothing else: one is as unusual among them as any new one is."""
    rng = np.random.default_rng(4)
    rows, label, _ = clusters(rng, 30, spread=0.3)
    new, _, _ = clusters(rng, 900, spread=0.3)
    assert 0.25 < Reference.like(rows, label).novelty(new).mean() < 0.75


@pytest.mark.parametrize("label", [[-1], [0], [0, 1], [-1, -1], [0, -1, 0]])
def test_hardly_any_sample_is_no_reason_to_fail(label):
    rows = np.random.default_rng(0).standard_normal((len(label), 4))
    found = Reference.like(rows, np.array(label)).novelty(np.vstack([rows, -rows, np.zeros((1, 4))]))
    assert ((found >= 0) & (found <= 1)).all()
    assert Reference.like(rows, np.array(label)).novelty(np.zeros((0, 4))).shape == (0,)


@pytest.mark.parametrize(("classes", "each"), [(2, 3), (5, 2000), (3000, 1)])
def test_every_class_is_kept(classes, each):
    label = np.repeat(np.arange(classes), each)
    labelled = np.arange(0, 2 * len(label), 2)
    rows = reference_rows(label, labelled, np.arange(2 * len(label)), seed=1)
    assert len(rows) == min(2 * len(label), max(2000, classes))
    assert len(np.unique(label[np.isin(labelled, rows)])) == classes
    assert (np.diff(rows) > 0).all()


def test_the_file_holds_it_all(reference, tmp_path):
    run = RunFolder(tmp_path)
    assert Reference.load(run) is None
    reference.save(run)
    again, new = Reference.load(run), np.random.default_rng(5).standard_normal((9, 16))
    assert again.novelty(new).tolist() == reference.novelty(new).tolist()
    (tmp_path / REFERENCE).write_bytes((tmp_path / REFERENCE).read_bytes()[:-9])
    with pytest.raises(TrainError, match="damaged"):
        Reference.load(run)
