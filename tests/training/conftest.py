"""A state and a loader over a small cache, as `featcache train` puts them together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from featcache.stages.train import run_training
from featcache.training.request import TrainRequest

TWINTURBO = {
    "objective": {"w_y": 0.0, "w_critic": 1.0, "critic_penalty": 0.0, "w_kz": 0.1},
    "projector": {"heads": 2, "dropout": 0.1},
}


@pytest.fixture(autouse=True)
def small(one_thread: None) -> None:
    """Training options that are small."""


@pytest.fixture(scope="session")
def cache(make_cache: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with weak and strong views; not to be changed."""
    return make_cache(tmp_path_factory.mktemp("training") / "cache.zarr", weak=2, strong=1)


@pytest.fixture
def run(cache: Path, tmp_path: Path) -> Callable[..., Path]:
    """Trains into a directory and returns it: `twinturbo` with all its parts, unless asked otherwise."""

    def go(
        name: str,
        *,
        objective: str = "twinturbo",
        seed: int = 0,
        resume: bool = False,
        log: Mapping[str, int] | None = None,
        cv: int = 0,
        **optim: Any,
    ) -> Path:
        options = {
            **(TWINTURBO if objective == "twinturbo" else {"projector": {"heads": 2}}),
            "optim": {"steps": 30, "batch_size": 6, **optim},
            "log": log or {"every": 5, "checkpoint_every": 10},
            "cv": cv,
        }
        request = TrainRequest(cache, objective, seed, labels_per_class=3, options=options)
        run_training(request, tmp_path / name, device="cpu", resume=resume)
        return tmp_path / name

    return go
