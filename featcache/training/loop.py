"""The training loop: one for every objective, plain functions over one state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from featcache.errors import TrainError
from featcache.loading.loader import Loader
from featcache.objectives.base import Features, Objective
from featcache.training.options import TrainOptions
from featcache.training.state import TrainState

Log = Callable[[int, Mapping[str, float]], None]


def fit(
    state: TrainState,
    loader: Loader,
    options: TrainOptions,
    *,
    seed: int,
    device: torch.device,
    log: Log,
    save: Callable[[], None],
) -> None:
    """Train from `state.step` to the last step, logging the terms by name and saving now and then.

    All randomness is seeded by (seed, step), so a resumed training ends as an uninterrupted one does. Raises
    TrainError, without saving, when the loss is no longer finite.
    """
    projector, objective = state.model["projector"], state.model["objective"]
    assert isinstance(objective, Objective)
    project = torch.compile(projector) if options.optim.compile else projector
    steps = options.optim.steps
    state.model.train()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        for batch in loader.steps(state.step, steps):
            generator = _seed(seed, state.step, device)
            state.set_learning_rate()
            with _autocast(options.optim.amp, device):
                loss, terms = objective(project, batch, state.step / steps, generator)
            _update(state, loss)
            if state.step % options.log.every == 0 or state.step == steps:
                log(state.step, _finite({"loss": loss, **terms}, state.step))
            if state.step % options.log.checkpoint_every == 0 and state.step < steps:
                _finite({"loss": loss}, state.step)
                save()
    state.model.eval()


def _seed(seed: int, step: int, device: torch.device) -> torch.Generator:
    """The step's own generator; dropout, which can only use the global one (forked here), gets the same seed."""
    mixed = (seed * 1_000_003 + step) % 2**63
    torch.manual_seed(mixed)
    return torch.Generator(device).manual_seed(mixed)


def _update(state: TrainState, loss: Tensor) -> None:
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    state.clip_gradients()
    state.optimizer.step()
    state.step += 1
    if state.average:
        state.average.update_parameters(state.model)


def _finite(terms: Mapping[str, Tensor], step: int) -> dict[str, float]:
    values = {name: float(value.detach()) for name, value in terms.items()}
    broken = [name for name, value in values.items() if not abs(value) < float("inf")]
    if broken:
        raise TrainError(
            f"the training went to pieces at step {step}",
            got=", ".join(f"{name}={values[name]}" for name in broken),
            expected="finite losses",
            hint="lower optim.lr, or the weights of the objective's terms",
        )
    return values


def _autocast(amp: str, device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=amp == "bfloat16")


def predictor(projector: torch.nn.Module, objective: Objective[Any]) -> Callable[[Features], Tensor]:
    """Features to (B, C) log-probabilities, float32."""

    def predict(features: Features) -> Tensor:
        return objective.logits(projector(features)).float().log_softmax(1)

    return predict
