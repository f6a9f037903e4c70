"""A cache of chosen embeddings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

Part = tuple[NDArray[np.float32], Sequence[int]]


@pytest.fixture(autouse=True)
def small(one_thread: None) -> None:
    """These samples are few."""


@pytest.fixture(scope="session")
def write() -> Callable[..., Path]:
    """Writes a cache of the given embeddings (N, P) and labels by split; one row may have failed."""

    def to(
        path: Path,
        splits: Mapping[str, Part],
        classes: tuple[str, ...],
        failed: Mapping[str, Sequence[int]] | None = None,
        dtype: str = "float16",
    ) -> Path:
        from featcache.cache.labels import LabelTable
        from featcache.cache.spec import CacheSpec, LayoutSpec, Shapes, SplitSpec, TokenArray
        from featcache.cache.writer import CacheWriter
        from featcache.specs import EncoderSpec

        names = ("preprocess", "norm", "projection")
        encoder = EncoderSpec(name="m", weights="0" * 64, modality="image", **dict.fromkeys(names, "none"))
        spec = CacheSpec(encoder=encoder, layers=(-1,), tokens="all", dtype=dtype)
        with CacheWriter(path, spec, layout=LayoutSpec(shard_size="64")) as writer:
            for name, (pooled, labels) in splits.items():
                rows, ids = len(pooled), [f"{name[:2]}{row:03}.png" for row in range(len(pooled))]
                shapes = Shapes(layers=(TokenArray(layer=-1, tokens=1, dim=4),), pooled=pooled.shape[1])
                split = writer.split(name, SplitSpec(content=name, rows=rows), ids, shapes)
                writer.label(LabelTable(classes, {name: np.array(labels)}))
                for unit in split.missing():
                    part = pooled[unit.start : unit.stop]
                    lost = {
                        row: "truncated JPEG"
                        for row in (failed or {}).get(name, ())
                        if unit.start <= row < unit.stop
                    }
                    with split.begin(unit) as out:
                        out.append({-1: np.ones((len(part), 1, 4), "f4")}, part, None, failed=lost)
                        out.commit()
        return path

    return to


def blobs(rows: int, classes: int, seed: int) -> Part:
    """Well separated classes in 16 dimensions: embeddings and labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(rows) % classes
    centres = np.random.default_rng(99).standard_normal((classes, 16)) * 4
    return (centres[labels] + rng.standard_normal((rows, 16))).astype(np.float32), labels
