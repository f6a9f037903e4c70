"""Batches that do not fit in memory: smaller ones, and nothing is lost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from featcache import encoders
from featcache.cache.reader import read_array
from featcache.errors import EncoderError
from featcache.extraction.batch_size import auto_batch
from featcache.extraction.forward import Forward
from featcache.sources import open_source
from featcache.specs import ViewSpec
from featcache.stages.extract import extract

pytestmark = pytest.mark.usefixtures("one_thread")

Model = Callable[[str], str]
Tree = Callable[[Path], Mapping[str, bytes]]


def test_a_batch_that_does_not_fit_is_halved_and_every_byte_is_there(
    photos: Path, frozen: Model, tmp_path: Path, tree: Tree, summaries_of: Callable[..., dict[str, Any]]
) -> None:
    made = {}
    for factory in ("roomy", "cramped"):  # one model, which takes any batch, or three views at most
        out = tmp_path / f"{factory}.zarr"
        options = {"views": ViewSpec(weak=1), "shard_size": "4", "batch_size": 8}
        summary = summaries_of(photos, frozen(factory), out, **options)["train"]
        made[factory] = tree(out / "train"), summary.at_once, summary.computed
    (whole, at_once, computed), (halved, fewer, as_many) = made.values()
    assert (at_once, fewer) == (None, 2)
    assert (computed, as_many) == (20, 20)
    copies = "status/ledger/rows.json"  # of what the cache was made with: the two models have two names
    assert whole.keys() == halved.keys()
    assert all(whole[name] == halved[name] for name in whole if name != copies)


def test_later_batches_are_not_tried_whole_again(frozen: Model) -> None:
    forward = Forward(encoders.load(frozen("cramped")), (-1,), "all", "float32", torch.device("cpu"))
    module = forward.encoder.module  # type: ignore[attr-defined]
    images = torch.rand(9, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    first, again = (forward({"input": images}).pooled for _ in range(2))
    assert torch.equal(first, again)
    assert module.asked == [9, 4, 2, 2, 2, 2, 1, 2, 2, 2, 2, 1]


def test_a_sample_that_does_not_fit_alone_is_an_error_in_words(frozen: Model) -> None:
    forward = Forward(encoders.load(frozen("no_memory")), (-1,), "all", "float32", torch.device("cpu"))
    with pytest.raises(EncoderError, match=r"single sample[\s\S]*Tried 2 GiB"):
        forward({"input": torch.zeros(5, 3, 16, 16)})


def test_on_the_cpu_the_batch_is_as_ever(photos: Path, frozen: Model) -> None:
    forward = Forward(encoders.load(frozen("tiny")), (-1,), "all", "float32", torch.device("cpu"))
    assert auto_batch(forward, open_source(str(photos))["train"]) == 64


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_the_batch_fits_and_gives_what_the_cpu_gives(
    photos: Path, frozen: Model, tmp_path: Path
) -> None:
    found = []
    for device in ("cpu", "cuda"):
        options = {"batch_size": "auto", "device": device, "dtype": "float32"}
        extract(photos, frozen("tiny"), tmp_path / device, **options)
        found.append(read_array(tmp_path / device / "train" / "pooled")[:])
    np.testing.assert_allclose(found[0], found[1], rtol=1e-2, atol=1e-2)
