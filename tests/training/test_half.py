"""Every objective under bfloat16 autocast, from a float16 cache, alone and with a second cache."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from featcache import plugins
from featcache.objectives.base import Probe
from featcache.stages.train import run_training
from featcache.training.request import TrainRequest

TRAINED = [
    name
    for name in plugins.names("objectives")
    if not issubclass(plugins.find("objectives", name).objective, Probe)
]


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def both(cache: Path, place: Path, objective: str, **data: Any) -> list[list[float]]:
    for amp in ("float32", "bfloat16"):
        options = {
            "projector": {"heads": 2},
            "optim": {"steps": 10, "batch_size": 6, "lr": 3e-3, "amp": amp},
            "log": {"every": 1},
            "data": data,
        }
        request = TrainRequest(cache, objective, 0, labels_per_class=2, options=options)
        run_training(request, place / amp, device="cpu")
    return [losses(place / amp) for amp in ("bfloat16", "float32")]


@pytest.mark.parametrize("objective", TRAINED)
def test_losses_are_those_of_float32_but_for_rounding(
    make_cache: Callable[..., Path], tmp_path: Path, objective: str
) -> None:
    cache = make_cache(tmp_path / "c.zarr", weak=1, strong=1, dtype="float16", mask=True)
    half, full = both(cache, tmp_path, objective)
    assert half != full
    assert half[:4] == pytest.approx(full[:4], rel=0.1, abs=0.1)  # critics soon go their own way
    assert half[-1] == pytest.approx(full[-1], abs=1)


def test_with_a_second_cache(make_cache: Callable[..., Path], tmp_path: Path) -> None:
    cache = make_cache(tmp_path / "c.zarr", weak=1, strong=1, dtype="float16", mask=True)
    splits = {"old": [row % 3 for row in range(12)], "old-test": [0, 1, 2]}
    source = make_cache(tmp_path / "s.zarr", splits=splits, weak=1, strong=1, dtype="float16", mask=True)
    data = {"replay": str(source), "replay_split": "old", "replay_test": "old-test"}
    half, full = both(cache, tmp_path, "unsupervised", **data)
    assert half != full
    assert half[:4] == pytest.approx(full[:4], rel=0.1, abs=0.1)  # critics soon go their own way
    assert half[-1] == pytest.approx(full[-1], abs=1)
