"""Trainings on the same rows share them: however many there are, a cache is opened and loaded once."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from featcache.cache.array import ShardedArray
from featcache.loading.store import Column
from featcache.stages.pipeline import run_pipeline
from featcache.stages.train import run_training
from featcache.training.data import DataPool
from featcache.training.options import DataOptions
from featcache.training.request import TrainRequest

pytestmark = pytest.mark.usefixtures("one_thread")
OPTIONS = {"projector": {"heads": 2}, "optim": {"steps": 2, "batch_size": 4}}


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each array of a cache is opened, and loaded as a whole."""
    seen: Counter[str] = Counter()
    opened, load = ShardedArray.open, Column.load

    def count_open(*arguments: Any, **options: Any) -> ShardedArray:
        array = opened(*arguments, **options)
        seen[f"open {array.path.relative_to(array.path.parents[1])}"] += 1
        return array

    def count_load(self: Column, device: torch.device) -> None:
        seen[f"load {self.array.path.relative_to(self.array.path.parents[1])}"] += 1
        load(self, device)

    monkeypatch.setattr(ShardedArray, "open", staticmethod(count_open))
    monkeypatch.setattr(Column, "load", count_load)
    return seen


def test_a_pipeline_of_twenty_trainings_loads_its_cache_once(
    photos: Path, frozen: Callable[[str], str], tmp_path: Path, counted: Counter[str]
) -> None:
    file = tmp_path / "study.toml"
    table = {"source": str(photos), "model": frozen("tiny"), "num_workers": 0}
    lines = [f"{key} = {json.dumps(value)}" for key, value in table.items()]
    file.write_text("\n".join([
        "[extract.photos]", *lines,
        "[train]", 'objectives = ["supervised", "twinturbo", "linear", "fixmatch"]', "controls = false",
        "labels_per_class = [1]", "seeds = [0]",
        "[options]", "projector = { heads = 2 }", "optim = { steps = 2, batch_size = 4 }",
    ]))  # fmt: skip

    def count(seeds: int) -> dict[str, int]:
        counted.clear()
        overrides = {"train": {"seeds": list(range(seeds))}}
        options = {"overrides": overrides, "device": "cpu", "progress": False, "trust": True}
        study = run_pipeline(str(file), out=tmp_path / str(seeds), say=lambda line: None, **options)
        assert len(study.trainings) == 4 * seeds
        return {name: n for name, n in counted.items() if name.split("/")[-1] != "status"}

    four, twenty = count(1), count(5)
    assert twenty == four
    assert {n for name, n in twenty.items() if name.startswith("load train/")} == {1}


def test_other_rows_are_opened_anew(make_cache: Callable[..., Path], tmp_path: Path) -> None:
    pool = DataPool(torch.device("cpu"))
    first, second = (make_cache(tmp_path / name, layers=(-1, -2)) for name in ("a.zarr", "b.zarr"))
    seen = []
    wanted = [(first, -1), (first, -1), (first, -2), (second, -2), (first, -1)]
    for number, (cache, layer) in enumerate(wanted):
        options = OPTIONS | {"data": {"layer": layer}}
        request = TrainRequest(cache, "supervised", labels_per_class=1, options=options)
        run_training(request, tmp_path / str(number), pool=pool)
        seen.append(pool.data(cache, DataOptions(layer=layer)))
    assert [seen[0] is other for other in seen[1:]] == [True, False, False, False]
