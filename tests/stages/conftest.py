"""What the tests of whole stages share: the photos as a request, a tiny CLIP, the values in a cache."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from featcache import encoders
from featcache.cache.reader import Cache
from featcache.stages.extract import ExtractRequest

CLIP = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny open_clip model with a checkpoint, as only a trained text tower counts."""
    import open_clip
    import torch

    path = tmp_path_factory.mktemp("open_clip") / "featcache-tiny.json"
    path.write_text(json.dumps(CLIP))
    open_clip.add_model_config(path)
    weights = path.with_name("weights.pt")
    torch.save(encoders.load("open_clip:featcache-tiny/random").module.state_dict(), weights)
    return f"open_clip:featcache-tiny/{weights}"


@pytest.fixture
def request_of(photos: Path, frozen: Callable[[str], str], tmp_path: Path) -> Callable[..., ExtractRequest]:
    """The photos through the tiny module into `c.zarr`, with some fields changed."""
    base = ExtractRequest(str(photos), frozen("tiny"), tmp_path / "c.zarr", num_workers=0, shard_size="4")
    return lambda **changes: replace(base, **changes)


@pytest.fixture(scope="session")
def values() -> Callable[..., NDArray[Any]]:
    """Reads an array of a split: (N, V, ...) float32."""

    def read(path: Path, name: str, split: str = "train") -> NDArray[Any]:
        found = Cache.open(path).split(split)
        rows = np.arange(found.rows)
        views = [found.array(name).gather(rows, view) for view in range(len(found.views))]
        return np.stack(views, 1).astype(np.float32)

    return read
