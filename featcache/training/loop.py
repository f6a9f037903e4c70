"""The training loop: one for every objective, plain functions over one state."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing

import torch
from torch import Tensor

from featcache.errors import TrainError
from featcache.loading.loader import Loader
from featcache.objectives.base import Objective
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
    TrainError naming the step, without saving, where the loss, a term of it or the gradient is not finite.
    """
    projector, objective = state.model["projector"], state.model["objective"]
    assert isinstance(objective, Objective)
    project = torch.compile(projector) if options.optim.compile else projector
    steps = options.optim.steps
    state.model.train()
    recent: list[dict[str, Tensor]] = []
    forked = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
    with forked, closing(loader.steps(state.step, steps)) as batches:
        for batch in batches:
            generator = _seed(seed, state.step, device)
            state.set_learning_rate()
            with _autocast(options.optim.amp, device):
                loss, terms = objective(project, batch, state.step / steps, generator)
            recent.append({"loss": loss.detach(), **terms, "grad_norm": _update(state, loss)})
            last = state.step == steps
            due = last or state.step % options.log.every == 0
            keep = not last and state.step % options.log.checkpoint_every == 0
            if due or keep:
                values = _finite(recent, state.step)
                recent.clear()
            if due:
                log(state.step, values)
            if keep:
                save()


def _seed(seed: int, step: int, device: torch.device) -> torch.Generator:
    """The step's own generator; dropout, which can only use the global one (forked), gets the same seed."""
    mixed = (seed * 1_000_003 + step) % 2**63
    torch.manual_seed(mixed)
    return torch.Generator(device).manual_seed(mixed)


def _update(state: TrainState, loss: Tensor) -> Tensor:
    """One step of the optimiser; returns the norm of the gradient, before clipping."""
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    norm = state.clip_gradients()
    state.optimizer.step()
    state.step += 1
    state.move_average()
    return norm


def _finite(recent: Sequence[Mapping[str, Tensor]], step: int) -> dict[str, float]:
    """The terms of `step`, the last of `recent`; all in one look now and then, as it waits for the device."""
    values: dict[str, float] = {}
    looked = iter(torch.stack([value.float() for terms in recent for value in terms.values()]).tolist())
    for at, terms in enumerate(recent, start=step - len(recent) + 1):
        values = dict(zip(terms, looked, strict=False))
        broken = [f"{name}={value}" for name, value in values.items() if not math.isfinite(value)]
        if broken:
            raise TrainError(
                f"the training went to pieces at step {at}",
                got=", ".join(broken),
                expected="finite numbers",
                hint="lower optim.lr, or the weights of the objective's terms",
            )
    return values


def _autocast(amp: str, device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=amp == "bfloat16")
