"""The graphs of a package give its numbers, in another runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import featcache as fc
from featcache.cache.reader import CacheReader
from featcache.errors import Notice, TrainError

AGREE = 1e-4
OWN = """
from torch import nn
from torchvision.transforms.v2 import functional as f

class Own(nn.Module):
    def forward(self, x):
        return x.mean((2, 3), keepdim=True) if float(x.sum()) > -1 else x

def make():
    return Own(), lambda image: f.pil_to_tensor(image.resize((8, 8))) / 255
"""
"""A model whose path depends on its input."""
Arrays = Mapping[str, NDArray[Any]]


def by_onnx(path: Path, inputs: Arrays) -> dict[str, NDArray[Any]]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    read = {each.name: inputs[each.name] for each in session.get_inputs()}
    names = [each.name for each in session.get_outputs()]
    return dict(zip(names, session.run(None, read), strict=True))


def by_torch(path: Path, inputs: Arrays) -> list[NDArray[Any]]:
    program = torch.export.load(path)
    names = [spec.arg.name for spec in program.graph_signature.input_specs if spec.kind.name == "USER_INPUT"]
    read = {name: torch.from_numpy(inputs[name]) for name in inputs if name in names}
    return [value.detach().numpy() for value in program.module()(**read)]


def close(one: NDArray[Any], other: NDArray[Any]) -> None:
    np.testing.assert_allclose(one, other, rtol=0, atol=AGREE * max(1.0, float(np.abs(other).max())))


def stored(cache: Path, split: str) -> dict[str, NDArray[Any]]:
    """The features of a split of a cache, as the graphs take them."""
    found = CacheReader.open(cache).split(split)
    rows = np.arange(found.rows)
    arrays = {"pooled": "pooled", "tokens": "tokens", "mask": "token_mask"}
    read = {
        name: found.array(array).gather(rows, 0) for name, array in arrays.items() if array in found.arrays
    }
    return {name: value.astype(bool if name == "mask" else np.float32) for name, value in read.items()}


@pytest.mark.slow
def test_photos(trained: Callable[..., Any], photos: Path, tmp_path: Path) -> None:
    made = trained("open_clip:glyph-clip", "supervised", tokens="grid:2x2")
    model = fc.package(made.run, tmp_path / "model", onnx=True, torch_export=True)
    expected, features = (
        fc.Run.open(made.run).predict(fc.Cache.open(made.cache)["train"]),
        stored(made.cache, "train"),
    )
    found = by_onnx(model.path / "projector.onnx", features)
    close(found["probabilities"], expected.probabilities)
    close(found["z"], expected.z)
    probabilities, z = by_torch(model.path / "projector.pt2", features)
    close(probabilities, expected.probabilities)
    close(z, expected.z)
    # From the image to the class, in ONNX only.
    files = sorted((photos / "train").rglob("*.png"))
    pixels = torch.stack([model.encoder.transform(Image.open(file))["image"] for file in files]).numpy()
    frozen = by_onnx(model.path / "encoder.onnx", {"image": pixels})
    whole = by_onnx(model.path / "projector.onnx", frozen)
    np.testing.assert_allclose(
        whole["probabilities"], expected.probabilities, atol=0.02
    )  # no rounding to float16
    tokens, pooled = by_torch(model.path / "encoder.pt2", {"image": pixels})
    close(tokens, frozen["tokens"])
    close(pooled, frozen["pooled"])


@pytest.mark.slow
def test_texts(trained: Callable[..., Any], texts: Path, bert: Path, tmp_path: Path) -> None:
    made = trained(f"hf:{bert}@10", "supervised", source=texts)
    model = fc.package(made.run, tmp_path / "model", onnx=True, torch_export=True)
    expected, features = fc.Run.open(made.run).predict(made.cache), stored(made.cache, "train")
    assert not features["mask"].all()
    close(by_onnx(model.path / "projector.onnx", features)["probabilities"], expected.probabilities)
    close(by_torch(model.path / "projector.pt2", features)[0], expected.probabilities)
    lines = [line.rpartition(",")[0] for line in texts.read_text().splitlines()[1:]]
    inputs = [model.encoder.transform(line) for line in lines]
    batch = {name: torch.stack([each[name] for each in inputs]).numpy() for name in inputs[0]}
    frozen = by_onnx(model.path / "encoder.onnx", batch)
    np.testing.assert_allclose(frozen["pooled"], features["pooled"], atol=5e-3)
    np.testing.assert_array_equal(frozen["mask"], features["mask"])


OBJECTIVES = (
    "content_style",
    "finessl",
    "freematch",
    "knn",
    "linear",
    "twinturbo",
    "unsupervised",
    "zero_shot",
)
"""One of each way to make classes of z."""


@pytest.mark.slow
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective(
    trained: Callable[..., Any], frozen: Callable[[str], str], tmp_path: Path, objective: str
) -> None:
    model = "open_clip:glyph-clip" if objective == "zero_shot" else frozen("tiny")
    made = trained(model, objective, views="weak=1,strong=1", tokens="grid:2x2")
    package = fc.package(made.run, tmp_path / "model", onnx=True, trust=True)
    expected = fc.Run.open(made.run).predict(fc.Cache.open(made.cache)["test"])
    found = by_onnx(package.path / "projector.onnx", stored(made.cache, "test"))
    close(found["probabilities"], expected.probabilities)


def test_a_model_that_cannot_be_traced_is_left_out(trained: Callable[..., Any], tmp_path: Path) -> None:
    module = tmp_path / "own.py"
    module.write_text(OWN)
    made = trained(f"python:{module}:make")
    with pytest.warns(Notice, match=r"encoder\.pt2 is left out"):
        model = fc.package(made.run, tmp_path / "model", torch_export=True, trust=True)
    assert not (model.path / "encoder.pt2").exists()
    assert (model.path / "projector.pt2").exists()


def test_a_graph_with_other_numbers_is_refused(
    trained: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained("open_clip:glyph-clip").run
    monkeypatch.setattr("featcache.packaging.graphs.AGREE", -1.0)
    with pytest.raises(TrainError, match="other numbers"):
        fc.package(run, tmp_path / "model", torch_export=True)
    assert not (tmp_path / "model").exists()
