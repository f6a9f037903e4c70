"""The model's output is looked at before anything is written, and comes apart into rows and views."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from featcache import encoders
from featcache.cache.spec import Shapes, TokenArray
from featcache.encoders.base import Encoded, Geometry
from featcache.errors import EncoderError, SourceError
from featcache.extraction.forward import Forward, empty_views, split_views
from featcache.sources import open_source

pytestmark = pytest.mark.usefixtures("one_thread")

Model = Callable[[str], str]


def _forward(
    model: str, layers: tuple[int, ...] = (-1,), choice: str = "all", amp: str = "float32"
) -> Forward:
    return Forward(encoders.load(model), layers, choice, amp, torch.device("cpu"))  # type: ignore[arg-type]


def test_the_geometry_is_that_of_the_model(photos: Path, frozen: Model) -> None:
    source = open_source(str(photos))["train"]
    assert _forward(frozen("tiny"), (-2, -1)).shapes(source) == Shapes(
        layers=(
            TokenArray(layer=-2, tokens=17, dim=8, prefix=1, grid=(4, 4)),
            TokenArray(layer=-1, tokens=17, dim=8, prefix=1, grid=(4, 4)),
        ),
        pooled=8,
    )
    small = _forward(frozen("tiny"), choice="grid:2x2").shapes(source)
    assert small.layers == (TokenArray(layer=-1, tokens=4, dim=8, prefix=0, grid=(2, 2)),)


def test_it_is_found_by_the_first_sample_that_can_be_read(photos: Path, frozen: Model) -> None:
    (photos / "train" / "cat" / "00.png").write_bytes(b"")
    assert _forward(frozen("tiny")).shapes(open_source(str(photos))["train"]).pooled == 8
    for file in (photos / "train").rglob("*.png"):
        file.write_bytes(b"")
    with pytest.raises(SourceError, match=r"10 samples, .*cat/00\.png: the file is empty"):
        _forward(frozen("tiny")).shapes(open_source(str(photos))["train"])


@pytest.mark.parametrize(
    ("factory", "said"),
    [
        ("wrong_grid", ["do not fit their geometry", "17 tokens", "1 prefix tokens and a grid of 3x3"]),
        ("one_answer", ["pooled of shape (1, 8)", "2 samples"]),
        ("flat_pooled", ["pooled has the wrong rank", "(2,)", "(B, P)"]),
        ("broken", ["KeyError: 'features'"]),
        ("no_memory", ["single sample", "Tried 2 GiB", "amp='bfloat16'"]),
        ("nan", ["tokens of layer -1 are not finite", "sample cat/00.png", "amp='float32'"]),
        ("inf", ["tokens of layer -1 are not finite", "sample cat/00.png"]),
        ("picky", ["ValueError: too white"]),
        ("forgetful", ["not deterministic", "tokens of layer -1", "dropout"]),
        ("sociable", ["not deterministic", "pooled", "statistics of the batch"]),
    ],
)
def test_an_output_that_no_cache_can_hold_is_refused(
    photos: Path, frozen: Model, factory: str, said: list[str]
) -> None:
    Image.new("RGB", (20, 20), "white").save(photos / "train" / "cat" / "00.png")
    with pytest.raises(EncoderError) as error:
        _forward(frozen(factory)).shapes(open_source(str(photos))["train"])
    assert all(part in str(error.value) for part in said), error.value


def test_amp_computes_in_another_type_and_stays_near(frozen: Model) -> None:
    inputs = {"input": torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))}
    exact, rough = (_forward(frozen("tiny"), amp=amp)(inputs).tokens[-1] for amp in ("float32", "bfloat16"))
    assert exact.dtype == torch.float32
    assert rough.dtype == torch.bfloat16
    torch.testing.assert_close(exact, rough.float(), atol=0.02, rtol=0.02)


@pytest.mark.parametrize("readable", [[0, 1, 2], [0, 2], [1]])
def test_views_come_apart_with_zeros_where_a_row_failed(readable: list[int]) -> None:
    kept = len(readable)
    tokens = torch.arange(2 * kept * 3 * 2, dtype=torch.bfloat16).reshape(2 * kept, 3, 2) + 1
    mask = torch.ones(2 * kept, 3, dtype=torch.bool)
    encoded = Encoded({-1: tokens}, mask, tokens[:, 0], {-1: Geometry(0, None)})
    arrays = split_views(encoded, 2, 3, np.array(readable))
    assert len(arrays) == 2
    for view, given in enumerate(arrays):
        assert given.mask is not None
        assert given.tokens[-1].shape == (3, 3, 2)
        own = slice(view * kept, (view + 1) * kept)
        np.testing.assert_array_equal(given.tokens[-1][readable], tokens[own].float())
        np.testing.assert_array_equal(given.pooled[readable], tokens[own, 0].float())
        lost = [row for row in range(3) if row not in readable]
        assert not given.tokens[-1][lost].any()
        assert not given.pooled[lost].any()
        assert not given.mask[lost].any()
        assert given.mask[readable].all()


def test_a_batch_without_any_row_is_all_zeros() -> None:
    shapes = Shapes(layers=(TokenArray(layer=-1, tokens=3, dim=2),), pooled=4, mask=True)
    first, second = empty_views(shapes, 2, 5)
    assert first.tokens[-1].shape == (5, 3, 2)
    assert first.pooled.shape == (5, 4)
    assert second.mask is not None
    assert second.mask.shape == (5, 3)
    assert not any(part.any() for part in (*first.tokens.values(), first.pooled, second.mask))
