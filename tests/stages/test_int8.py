"""int8 tokens and random subsets of tokens, from extraction to prediction."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from featcache.cache.quantise import dequantise
from featcache.cache.reader import CacheReader
from featcache.extraction import int8_scale
from featcache.specs import ViewSpec
from featcache.stages.extract import extract
from featcache.stages.info import info
from featcache.stages.predict import predict
from featcache.stages.train import run_training
from featcache.training.request import TrainRequest

pytestmark = pytest.mark.usefixtures("one_thread")

Request = Callable[..., dict[str, Any]]
Tree = Callable[[Path], Mapping[str, bytes]]
Values = Callable[..., NDArray[Any]]
CHANGES = {"dtype": "int8", "layers": (-1, -2), "views": ViewSpec(weak=1), "batch_size": 4}


def read(cache: Path, split: str, values: Values) -> NDArray[np.float32]:
    """Return the (N, V, T, D) values of the tokens."""
    tokens, scale = (values(cache, name, split) for name in ("tokens", "token_scale"))
    return dequantise(tokens, scale, np.array(CacheReader.open(cache).shapes.layers[0].std, np.float32))


@pytest.mark.parametrize("pilot", [3, 512])
def test_it_holds_the_features_that_float32_holds(
    request_of: Request, values: Values, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pilot: int
) -> None:
    monkeypatch.setattr("featcache.extraction.plan.PILOT_ROWS", pilot)
    assert int8_scale.PILOT_ROWS == 512
    small, exact = (
        request_of(**CHANGES),
        request_of(**CHANGES | {"dtype": "float32"}, out=tmp_path / "e.zarr"),
    )
    for request in (small, exact):
        extract(**request)
    expected = values(exact["out"], "tokens")
    for number, array in enumerate(CacheReader.open(small["out"]).shapes.layers):
        name = "tokens" if number == 0 else "tokens_layer-2"
        first = values(exact["out"], name)[:pilot, 0].reshape(-1, array.dim).astype(np.float64)
        assert array.std == pytest.approx(np.sqrt((first**2).mean(0)), rel=1e-4)
    found = read(small["out"], "train", values)
    step = (
        np.array(CacheReader.open(small["out"]).shapes.layers[0].std)
        * values(small["out"], "token_scale")[..., None]
    )
    assert (np.abs(found - expected) <= 0.501 * step + 1e-5).all()
    assert "std" not in info(small["out"])["layers"][0]


def test_the_spread_is_measured_once(request_of: Request, tree: Tree, tmp_path: Path) -> None:
    """Whatever is lost, and whichever split comes later, the bytes are those of one extraction."""
    request = request_of(**CHANGES)
    extract(**request)
    whole = tree(request["out"])
    for name in ("train/tokens/c/1/0/0/0", "train/token_scale/c/0/1/0"):
        (request["out"] / name).unlink()
    extract(**request)
    assert tree(request["out"]) == whole
    shutil.rmtree(request["out"] / "train")
    shutil.rmtree(request["out"] / "test")
    extract(**request_of(**CHANGES, split="test"))
    extract(**request_of(**CHANGES, split="train"))
    assert tree(request["out"]) == whole


def test_a_run_on_float16_predicts_from_int8_of_the_same_features(
    request_of: Request, learned: Callable[..., Path], tmp_path: Path
) -> None:
    plain, small = (request_of(out=tmp_path / f"{dtype}.zarr", dtype=dtype) for dtype in ("float16", "int8"))
    for request in (plain, small):
        extract(**request)
    run = learned(plain["out"], tmp_path / "run", data={"token_subset": 0.5})
    tables = []
    for cache in (plain["out"], small["out"]):
        predict(run, cache, tmp_path / "table.csv", device="cpu")
        tables.append([line.split(",") for line in (tmp_path / "table.csv").read_text().splitlines()[1:]])
    assert [line[1] for line in tables[0]] == [line[1] for line in tables[1]]
    confidence = np.array([[float(line[3]) for line in table] for table in tables])
    assert np.allclose(*confidence, atol=0.02)
    learned(small["out"], tmp_path / "other")


def test_a_training_on_subsets_is_its_own_and_is_repeated(cache: Path, tmp_path: Path) -> None:
    def trained(name: str, share: float) -> dict[str, torch.Tensor]:
        from safetensors.torch import load_file

        options = {"projector": {"heads": 2}, "optim": {"steps": 4}, "data": {"token_subset": share}}
        request = TrainRequest(cache, "twinturbo", labels_per_class=2, options=options)
        run_training(request, tmp_path / name, device="cpu")
        return load_file(tmp_path / name / "checkpoint.safetensors")

    whole, some, again = trained("whole", 1.0), trained("some", 0.5), trained("again", 0.5)
    assert all(torch.equal(value, again[name]) for name, value in some.items())
    assert not all(torch.equal(value, whole[name]) for name, value in some.items())
