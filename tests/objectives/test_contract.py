"""The contract of all objectives; files are found by a folder scan, so a new one is tested too."""

from __future__ import annotations

import ast
import inspect
import pickle
import re
import textwrap
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from featcache import plugins
from featcache.batch import Batch, Features
from featcache.config import Config
from featcache.objectives.base import Objective, Probe, ProbeData

KEYS = plugins.names("objectives")
CLASSES: dict[str, Any] = {key: plugins.find("objectives", key).objective for key in KEYS}
TRAINED = [key for key in KEYS if issubclass(CLASSES[key], Objective)]
PROBES = [key for key in KEYS if issubclass(CLASSES[key], Probe)]
AVAILABLE = [("eval",), ("eval", "weak"), ("eval", "weak", "strong")]


def permuted(features: Features, order: Tensor) -> Features:
    return Features(*(None if part is None else part[order] for part in features))


def step(
    key: str, world: Any, available: tuple[str, ...], shuffle: bool = False
) -> tuple[Any, Any, Tensor, dict]:
    """One training step's loss and terms, with gradients in place, from a fresh objective and projector."""
    objective = CLASSES[key](CLASSES[key].Options(), world.task())
    projector = world.projector()
    batch = world.batch(objective.views(available))
    if shuffle:
        mine, others = torch.tensor([2, 0, 3, 1]), torch.arange(11, -1, -1)
        batch = Batch(
            tuple(permuted(view, mine) for view in batch.labelled),
            batch.label[mine],
            tuple(permuted(view, others) for view in batch.unlabelled),
            batch.unlabelled_index[others],
        )
    loss, terms = objective(projector, batch, 0.5, torch.Generator().manual_seed(0))
    loss.backward()
    return objective, projector, loss.detach(), dict(terms)


def test_every_file_is_a_probe_or_trained() -> None:
    assert set(TRAINED) | set(PROBES) == set(KEYS)
    assert {"twinturbo", "supervised", "linear", "knn", "zero_shot"} <= set(KEYS)


@pytest.mark.parametrize("key", KEYS)
def test_names_its_source(key: str) -> None:
    assert re.search(r"arXiv \d{4}\.\d{4,5}", plugins.find("objectives", key).__doc__ or "")


@pytest.mark.parametrize("key", KEYS)
def test_every_option_is_documented_and_has_a_default(key: str) -> None:
    options = CLASSES[key].Options
    assert issubclass(options, Config)
    assert options.parse({}) == options()
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(options))).body
    assert isinstance(definition, ast.ClassDef)
    for field, follower in zip(definition.body, [*definition.body[1:], None], strict=True):
        if isinstance(field, ast.AnnAssign):
            documented = isinstance(follower, ast.Expr) and isinstance(follower.value, ast.Constant)
            assert documented, ast.unparse(field)


@pytest.mark.parametrize("key", TRAINED)
@pytest.mark.parametrize("available", AVAILABLE)
def test_asks_only_for_views_that_exist(key: str, available: tuple[str, ...], world: Any) -> None:
    views = CLASSES[key](CLASSES[key].Options(), world.task()).views(available)
    assert views.labelled or views.unlabelled
    assert {*views.labelled, *views.unlabelled} <= set(available)


@pytest.mark.parametrize("key", TRAINED)
@pytest.mark.parametrize("available", AVAILABLE)
def test_same_input_gives_the_same_step(key: str, available: tuple[str, ...], world: Any) -> None:
    before = torch.get_rng_state()
    _, one, loss, terms = step(key, world, available)
    _, two, again, others = step(key, world, available)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(loss, again)
    assert all(torch.equal(terms[name], others[name]) for name in terms | others)
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)


@pytest.mark.parametrize("key", TRAINED)
def test_gradients_are_finite_and_terms_are_numbers(key: str, world: Any) -> None:
    objective, projector, loss, terms = step(key, world, ("eval", "weak", "strong"))
    assert loss.shape == ()
    assert terms
    assert all(
        value.shape == () and torch.isfinite(value) and not value.requires_grad for value in terms.values()
    )
    gradients = [p.grad for p in [*objective.parameters(), *projector.parameters()] if p.grad is not None]
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in projector.parameters())


@pytest.mark.parametrize("key", TRAINED)
@pytest.mark.parametrize("available", AVAILABLE)
def test_the_order_within_a_batch_does_not_matter(key: str, available: tuple[str, ...], world: Any) -> None:
    _, one, loss, terms = step(key, world, available)
    _, two, again, others = step(key, world, available, shuffle=True)
    torch.testing.assert_close(loss, again)
    torch.testing.assert_close(terms, others)
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("key", TRAINED)
def test_logits_cover_every_class(key: str, world: Any) -> None:
    objective = CLASSES[key](CLASSES[key].Options(), world.task())
    logits = objective.logits(world.centres)
    assert logits.shape == (world.classes, world.classes)
    assert logits.argmax(dim=1).tolist() == list(range(world.classes))


@pytest.mark.parametrize("key", TRAINED)
@pytest.mark.parametrize("missing", [1, 2])
def test_classes_without_a_label_are_classes(key: str, missing: int, make_world: Any) -> None:
    """Classes without labels and names give finite terms, and are not predicted before training."""
    world = make_world(classes=5)
    known = torch.arange(5) < 5 - missing
    told = replace(
        world.task(), class_init=known[:, None] * world.centres, label_counts=known * torch.tensor(2)
    )
    objective, projector = CLASSES[key](CLASSES[key].Options(), told), world.projector()
    batch = world.batch(objective.views(("eval", "weak", "strong")))
    batch = batch._replace(label=batch.label % (5 - missing))
    loss, terms = objective(projector, batch, 1.0, torch.Generator().manual_seed(0))
    loss.backward()
    assert all(torch.isfinite(value) for value in (loss, *terms.values()))
    assert all(torch.isfinite(p.grad).all() for p in objective.parameters() if p.grad is not None)
    assert objective.logits(world.centres[known]).argmax(dim=1).tolist() == list(range(5 - missing))


@pytest.mark.parametrize("key", TRAINED)
def test_state_survives_a_checkpoint(key: str, world: Any) -> None:
    objective, _, _, _ = step(key, world, ("eval",))
    fresh = CLASSES[key](CLASSES[key].Options(), world.task())
    fresh.load_state_dict(pickle.loads(pickle.dumps(objective.state_dict())))
    assert all(torch.equal(value, fresh.state_dict()[name]) for name, value in objective.state_dict().items())
    assert {id(p) for p in fresh.critic_parameters()} <= {id(p) for p in fresh.parameters()}


@pytest.mark.parametrize("key", PROBES)
def test_probes_give_log_probabilities_in_any_order(key: str, world: Any) -> None:
    label = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2])
    data = ProbeData(world.features(label, 1).pooled, label, world.classes, world.centres)
    probe = CLASSES[key](CLASSES[key].Options())
    query, order = (
        world.features(label, 2).pooled,
        torch.randperm(9, generator=torch.Generator().manual_seed(0)),
    )
    predicted = probe.fit(data, seed=0)(query)
    assert predicted.shape == (9, world.classes)
    assert torch.isfinite(predicted).all()
    torch.testing.assert_close(predicted.exp().sum(dim=1), torch.ones(9))
    torch.testing.assert_close(probe.fit(data, seed=0)(query[order]), predicted[order])
    assert (predicted.argmax(dim=1) == label).float().mean() > 0.8
