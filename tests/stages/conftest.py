"""Fixtures of whole stages: a request for photos, a pretrained CLIP, the values in a cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from featcache.cache.reader import CacheReader
from featcache.config import merge
from featcache.stages.train import run_training
from featcache.training.request import TrainRequest


@pytest.fixture(scope="session")
def clip() -> str:
    """A pretrained model with a text tower."""
    return "open_clip:glyph-clip"


@pytest.fixture
def request_of(photos: Path, frozen: Callable[[str], str], tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Arguments of `extract`: the photos through the tiny module into `c.zarr`, with some changed."""
    places = {"source": photos, "model": frozen("tiny"), "out": tmp_path / "c.zarr"}
    return lambda **changes: places | {"num_workers": 0, "shard_size": "4"} | changes


@pytest.fixture(scope="session")
def learned() -> Callable[..., Path]:
    """Trains for three long steps into a folder, and returns that."""

    def run(cache: Path, out: Path, objective: str = "supervised", **options: dict[str, Any]) -> Path:
        optim = {"steps": 3, "batch_size": 4, "lr": 0.03, "head_lr": 0.1}
        options = merge({"projector": {"heads": 2}, "optim": optim}, options)
        request = TrainRequest(cache, objective, seed=1, labels_per_class=2, options=options)
        run_training(request, out, device="cpu")
        return out

    return run


@pytest.fixture(scope="session")
def cache(make_cache: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a text tower and every family of views; not to be changed."""
    path = tmp_path_factory.mktemp("cache") / "cache.zarr"
    return make_cache(path, text=True, weak=2, strong=2, dtype="float16")


@pytest.fixture(scope="session")
def run(cache: Path, learned: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on `cache`; not to be changed."""
    return learned(cache, tmp_path_factory.mktemp("run") / "run")


@pytest.fixture(scope="session")
def values() -> Callable[..., NDArray[Any]]:
    """Reads an array of a split: (N, V, ...) float32."""

    def read(path: Path, name: str, split: str = "train") -> NDArray[Any]:
        found = CacheReader.open(path).split(split)
        rows = np.arange(found.rows)
        views = [found.array(name).gather(rows, view) for view in range(len(found.views))]
        return np.stack(views, 1).astype(np.float32)

    return read


PIPELINE = """
description = "Cats and dogs."

[extract.small]
source = "{source}"
model = "{model}"
tokens = "cls"
num_workers = 0
shard_size = "4"
{more}

[train]
objectives = ["linear", "supervised"]
controls = false
labels_per_class = [1]
num_labels = [4]
seeds = [0, 1]

[options]
optim.steps = 4
# Some photos of the two splits are alike to the tiny model.
data.allow_leaks = true
projector.heads = 2

[objective.supervised]
label_smoothing = 0.1
"""


@pytest.fixture
def write(photos: Path, frozen: Callable[[str], str], tmp_path: Path) -> Callable[..., str]:
    """Writes the pipeline file, with lines added to its `[extract.small]` or some text replaced."""

    def go(more: str = "", swap: tuple[str, str] = ("", "")) -> str:
        text = PIPELINE.format(source=photos, model=frozen("tiny"), more=more)
        path = tmp_path / "small.toml"
        path.write_text(text.replace(*swap))
        return str(path)

    return go
