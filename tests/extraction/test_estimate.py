"""What an extraction will cost, told before it starts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from featcache import encoders
from featcache.cache.spec import Shapes, TokenArray
from featcache.errors import CacheError
from featcache.extraction.estimate import cache_bytes, pilot_rows, require_room
from featcache.extraction.feed import ViewDataset
from featcache.extraction.forward import Forward
from featcache.extraction.view_transform import ViewTransform
from featcache.files import human_bytes
from featcache.sources import open_source
from featcache.specs import ViewSpec
from featcache.stages.extract import dry_run

pytestmark = pytest.mark.usefixtures("one_thread")

Model = Callable[[str], str]
SHAPES = Shapes(
    layers=(TokenArray(layer=-1, tokens=5, dim=8), TokenArray(layer=-2, tokens=5, dim=6)), pooled=7, mask=True
)


@pytest.mark.parametrize(("dtype", "value"), [("float16", 2), ("bfloat16", 2), ("float32", 4)])
def test_bytes_are_those_of_the_arrays(dtype: str, value: int) -> None:
    row = (5 * 8 + 5 * 6 + 7) * value + 5 + 1
    assert cache_bytes(SHAPES, 10, 3, dtype) == 10 * (3 * row + 8)  # type: ignore[arg-type]


def test_bytes_of_int8_are_those_of_tokens_scales_and_pooled() -> None:
    row = 5 * (8 + 4) + 5 * (6 + 4) + 7 * 2 + 5 + 1
    assert cache_bytes(SHAPES, 10, 3, "int8") == 10 * (3 * row + 8)


def test_the_pilot_is_a_few_whole_batches_from_the_start_of_the_split(photos: Path, frozen: Model) -> None:
    encoder, views, source = encoders.load(frozen("tiny")), ViewSpec(), open_source(str(photos))["train"]
    forward = Forward(encoder, (-1,), "all", "float32", torch.device("cpu"))
    transform = ViewTransform(encoder.transform, "image", views)
    for batches, rows in (([range(4), range(4, 8), range(8, 10)], 10), ([range(4)], 4)):
        assert pilot_rows(ViewDataset(source, transform, views.names(), batches), forward) == rows


@pytest.mark.parametrize("factory", ["slow", "slow_pixels"])
def test_a_prediction_is_near_what_it_then_takes_whichever_stage_is_slow(
    frozen: Model,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    summaries_of: Callable[..., dict[str, Any]],
    factory: str,
) -> None:
    monkeypatch.setattr("featcache.extraction.estimate.PILOT_BATCHES", range(3, 5))
    monkeypatch.setenv("PAUSE", "0.15")
    request: dict[str, Any] = {"split": "train", "limit": 48, "batch_size": 4}
    request |= {"source": "digits", "model": frozen(factory), "out": tmp_path / "c.zarr"}
    _, estimates = dry_run(**request)
    assert list(tmp_path.iterdir()) == []
    took = summaries_of(**request)["train"].seconds
    assert estimates["train"].seconds == pytest.approx(took, rel=0.5)  # this machine may be busy


def test_a_disk_that_is_too_small_is_refused(tmp_path: Path) -> None:
    require_room(tmp_path / "a" / "b.zarr", 1)
    with pytest.raises(CacheError) as error:
        require_room(tmp_path / "a" / "b.zarr", 10**18)
    lines = str(error.value).splitlines()
    assert lines[0] == f"the disk cannot hold the cache {tmp_path / 'a' / 'b.zarr'}"
    assert lines[1].endswith("free")
    assert lines[2] == "  expected: 1000000.0 TB"
    assert "limit" in lines[3]
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1e3, "1.0 kB"), (2.5e9, "2.5 GB"), (3e12, "3.0 TB")]
)
def test_bytes_in_words(count: float, text: str) -> None:
    assert human_bytes(count) == text
