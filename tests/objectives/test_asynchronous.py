"""A training step never waits for the device: it reads back no value of a tensor.

Tensors on the meta device have no values. Code that asks for one (`float(x)`, `bool(x)`, `x[mask]`,
`x.nonzero()`, `x.cpu()`) raises an error there, and so does a step that mixes devices.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch

from featcache import plugins
from featcache.batch import Batch, Features, Views
from featcache.nn.projector import Projector, ProjectorOptions
from featcache.objectives.base import Objective
from featcache.training.options import OptimOptions
from featcache.training.state import TrainState

META = torch.device("meta")
CLASSES: dict[str, Any] = {
    key: plugins.find("objectives", key).objective for key in plugins.names("objectives")
}
TRAINED = [key for key, found in CLASSES.items() if issubclass(found, Objective)]
MORE: list[tuple[str, dict[str, Any]]] = [
    *[("twinturbo", {"w_critic": 1.0, "w_kz": 0.1, "posterior": p}) for p in ("binary", "infonce")],
    ("twinturbo", {"w_critic": 1.0, "w_kz": 0.1, "critic_spectral": True}),
    ("twinturbo", {"prior": "learned"}),
    ("softmatch", {"per_class": True, "dist_uniform": False, "hard_label": False}),
    ("freematch", {"use_quantile": True, "clip_thresh": True}),
    ("finessl", {"aux": False, "reweight": False}),
    ("flexmatch", {"thresh_warmup": False}),
]
"""Options that make other code run."""


class Generator(torch.Generator):
    """Replace draws by empty tensors on the meta device."""

    device = META


@pytest.fixture(autouse=True)
def no_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace autocast, which the meta device does not support, even switched off."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())


def moved(batch: Batch, device: torch.device) -> Batch:
    def features(view: Features) -> Features:
        mask = torch.ones(view.tokens.shape[:2], dtype=torch.bool, device=device)
        return Features(view.tokens.to(device), mask, view.pooled.to(device))

    return Batch(
        tuple(map(features, batch.labelled)),
        batch.label.to(device),
        tuple(map(features, batch.unlabelled)),
        batch.unlabelled_index.to(device),
        tuple(map(features, batch.replay)),
    )


@pytest.mark.parametrize(("key", "options"), [*((key, {}) for key in TRAINED), *MORE])
@pytest.mark.parametrize("available", [("eval",), ("eval", "weak", "strong")])
def test_a_step_reads_nothing_back(key: str, options: dict, available: tuple[str, ...], world: Any) -> None:
    objective = CLASSES[key](CLASSES[key].Options(**options), world.task())
    views = objective.views(available)
    batch = world.batch(views)
    batch = moved(batch._replace(replay=batch.unlabelled if views.replay else ()), META)
    state = TrainState(world.projector().to(META), objective.to(META), OptimOptions(ema=0.9))
    state.model.train()
    for _ in range(2):
        loss, terms = objective(state.model["projector"], batch, 0.5, Generator())
        loss.backward()
        norm = state.clip_gradients()
        state.step += 1
        state.move_average()
        assert {value.device for value in (loss, norm, *terms.values())} == {META}


@pytest.mark.parametrize("pool", ["cls", "mean", "attention", "gem"])
def test_no_aggregation_reads_anything_back(pool: Any, world: Any) -> None:
    (view,) = moved(world.batch(Views()), META).labelled
    projector = Projector(ProjectorOptions(heads=2, pool=pool), 8, 8, torch.Generator()).to(META)
    projector(view).sum().backward()
    assert all(p.grad is not None and p.grad.device == META for p in projector.parameters())


def test_what_is_read_back_is_noticed() -> None:
    for reading in (float, bool, torch.nonzero, lambda x: x[x > 0], lambda x: x.cpu(), lambda x: x.tolist()):
        with pytest.raises((RuntimeError, NotImplementedError)):
            reading(torch.zeros((), device=META))
