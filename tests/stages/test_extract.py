"""`extract`, whole: the cache holds what the model gives."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional as F

from featcache import encoders
from featcache.cache.reader import CacheReader
from featcache.errors import ConfigError
from featcache.extraction.view_transform import ViewTransform
from featcache.sources import open_source
from featcache.sources.base import limit
from featcache.specs import ViewSpec
from featcache.stages.extract import extract

pytestmark = pytest.mark.usefixtures("one_thread")

Model = Callable[[str], str]
Request = Callable[..., dict[str, Any]]
Tree = Callable[[Path], Mapping[str, bytes]]
Values = Callable[..., NDArray[Any]]
VIEWS = ViewSpec(weak=1, strong=2)


def _parquet(folder: Path) -> str:
    rng, images = np.random.default_rng(1), []
    for row in range(6):
        stream = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (9 + row, 12, 3), dtype=np.uint8)).save(stream, "PNG")
        images.append({"bytes": stream.getvalue(), "path": f"{row}.png"})
    names = {"info": {"features": {"label": {"_type": "ClassLabel", "names": ["ant", "bee"]}}}}
    table = pa.table({"image": images, "label": [0, 1, 0, 1, 1, 0]})
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(names)}), folder / "set.parquet")
    return str(folder / "set.parquet")


def _direct(model: str, source: Any, views: ViewSpec, layer: int = -1) -> tuple[NDArray[Any], NDArray[Any]]:
    """Tokens (N, V, T, D) and pooled (N, V, P) of every sample by itself, one forward pass each."""
    encoder = encoders.load(model)
    transform = ViewTransform(encoder.transform, source.modality, views)
    tokens, pooled = [], []
    for row, key in enumerate(source.ids):
        for view in views.names():
            made = transform(source[row], key, view)
            out = encoder.encode({name: value.unsqueeze(0) for name, value in made.items()}, [layer])
            tokens.append(out.tokens[layer][0].numpy())
            pooled.append(out.pooled[0].numpy())
    count = (len(source), len(views.names()))
    return np.stack(tokens).reshape(*count, *tokens[0].shape), np.stack(pooled).reshape(*count, -1)


@pytest.mark.parametrize(
    ("kind", "model"),
    [
        ("folder", "tiny"),
        ("parquet", "tiny"),
        ("digits", "tiny"),
        ("folder", "clip"),
        ("parquet", "timm:test_vit/random"),
    ],
)
def test_the_cache_holds_what_the_model_gives(
    values: Values, kind: str, model: str, photos: Path, tmp_path: Path, frozen: Model, clip: str
) -> None:
    model = {"tiny": frozen("tiny"), "clip": clip}.get(model, model)
    spec = {"folder": str(photos), "parquet": _parquet(tmp_path), "digits": "digits"}[kind]
    out = tmp_path / "c.zarr"
    extract(spec, model, out, views=VIEWS, limit=4, shard_size="3", batch_size=8, num_workers=0)
    cache, sources = CacheReader.open(out), open_source(spec)
    assert set(cache.split_names) == set(sources)
    for name, whole in sources.items():
        source, split = limit(whole, 4), cache.split(name)
        split.check()
        assert split.ids == list(source.ids)
        assert split.labels.tolist() == source.labels.tolist()
        assert cache.class_names == source.class_names
        tokens, pooled = _direct(model, source, VIEWS)
        # Half of float16's resolution, and what the size of a batch does to the last bits of float32.
        np.testing.assert_allclose(values(out, "tokens", name), tokens, rtol=2**-11, atol=1e-5)
        np.testing.assert_allclose(values(out, "pooled", name), pooled, rtol=2**-11, atol=1e-5)


def test_several_layers_in_one_pass(values: Values, request_of: Request, photos: Path, frozen: Model) -> None:
    extract(**request_of(layers=(-1, -2), dtype="float32"))
    source = open_source(str(photos))["train"]
    for name, layer in (("tokens", -1), ("tokens_layer-2", -2)):
        direct, _ = _direct(frozen("tiny"), source, ViewSpec(), layer)
        np.testing.assert_allclose(values(request_of()["out"], name), direct, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("choice", ["all", "cls", "patch", "pooled", "grid:2x2", "grid:1x4"])
def test_every_choice_of_tokens(
    values: Values, choice: str, request_of: Request, photos: Path, frozen: Model
) -> None:
    extract(**request_of(tokens=choice, dtype="float32"))
    tokens, pooled = _direct(frozen("tiny"), open_source(str(photos))["train"], ViewSpec())
    grid = tokens[:, :, 1:].reshape(*tokens.shape[:2], 4, 4, 8)
    expected = {
        "all": tokens,
        "cls": tokens[:, :, :1],
        "patch": tokens[:, :, 1:],
        "pooled": pooled[:, :, None],
        "grid:2x2": grid.reshape(10, 1, 2, 2, 2, 2, 8).mean((3, 5)).reshape(10, 1, 4, 8),
        "grid:1x4": grid.mean(2),
    }[choice]
    np.testing.assert_allclose(values(request_of()["out"], "tokens"), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(values(request_of()["out"], "pooled"), pooled, rtol=1e-5, atol=1e-6)
    (layer,) = CacheReader.open(request_of()["out"]).shapes.layers
    assert (layer.prefix, layer.grid) == {
        "all": (1, (4, 4)),
        "cls": (1, None),
        "patch": (0, (4, 4)),
        "pooled": (0, None),
        "grid:2x2": (0, (2, 2)),
        "grid:1x4": (0, (1, 4)),
    }[choice]


@pytest.mark.parametrize(("dtype", "bits"), [("bfloat16", 8), ("float32", 22)])
def test_other_value_types(dtype: Any, bits: int, request_of: Request, photos: Path, frozen: Model) -> None:
    extract(**request_of(dtype=dtype))
    tokens, _ = _direct(frozen("tiny"), open_source(str(photos))["train"], ViewSpec())
    split = CacheReader.open(request_of()["out"]).split("train")
    stored = split.array("tokens").gather(np.arange(10), 0)
    if dtype == "bfloat16":
        stored = (stored.astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_allclose(stored, tokens[:, 0], rtol=2.0**-bits, atol=1e-6)


def test_views_are_what_their_names_say(values: Values, request_of: Request) -> None:
    extract(**request_of(views=ViewSpec(weak=2, strong=1)))
    tokens = values(request_of()["out"], "tokens")
    assert CacheReader.open(request_of()["out"]).split("train").views == ("eval", "weak0", "weak1", "strong0")
    assert tokens.shape[1] == 4
    assert all(np.abs(tokens[:, a] - tokens[:, b]).max() > 0.01 for a in range(4) for b in range(a))


def test_splits_one_by_one_are_the_same_as_all_at_once(
    request_of: Request, summaries_of: Request, tmp_path: Path, tree: Tree
) -> None:
    assert set(summaries_of(**request_of())) == {"train", "test"}
    apart = request_of(out=tmp_path / "apart.zarr")
    for name, rows in (("test", 4), ("train", 10)):
        (summary,) = summaries_of(**apart, split=name).values()
        assert (summary.rows, summary.computed, summary.failed) == (rows, rows, {})
    assert tree(apart["out"]) == tree(request_of()["out"])
    with pytest.raises(ConfigError, match=r"no such split\n  got:      tests\n.*did you mean `test`"):
        extract(**apart, split="tests")


def test_class_texts_are_those_of_the_text_tower(
    request_of: Request, clip: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    extract(**request_of(model=clip))
    encoder = encoders.load(clip)
    expected = []
    for name in ("cat", "dog"):
        prompts = F.normalize(encoder.encode_text([t.format(name) for t in encoder.templates]).float(), dim=1)
        expected.append(F.normalize(prompts.mean(0), dim=0))
    stored = CacheReader.open(request_of()["out"]).class_text
    assert stored is not None
    np.testing.assert_allclose(stored, torch.stack(expected), rtol=1e-5, atol=1e-6)
    monkeypatch.setattr(type(encoder), "encode_text", None)  # the rerun has no use for it
    extract(**request_of(model=clip))


def test_class_texts_are_there_before_the_first_shard(
    request_of: Request, clip: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("featcache.extraction.block.walk", killed)
    with pytest.raises(KeyboardInterrupt):
        extract(**request_of(model=clip))
    cache = CacheReader.open(request_of()["out"])
    assert cache.class_text is not None
    assert not cache.split("train").complete()


def test_without_a_text_tower_there_are_no_class_texts(request_of: Request) -> None:
    extract(**request_of())
    assert CacheReader.open(request_of()["out"]).class_text is None


def test_unlabelled_samples_join_a_labelled_cache_but_do_not_inherit_one_they_replace(
    request_of: Request, photos: Path, tmp_path: Path
) -> None:
    extract(**request_of(split="train"))
    flat = tmp_path / "flat" / "test"
    flat.mkdir(parents=True)
    for file in (photos / "test").rglob("*.png"):
        shutil.copy(file, flat)
    extract(**request_of(source=str(flat.parent)))
    cache = CacheReader.open(request_of()["out"])
    assert cache.class_names == ("cat", "dog")
    assert cache.split("test").labels.tolist() == [-1] * 4
    extract(**request_of(source=str(flat.parent)), overwrite=True)
    cache = CacheReader.open(request_of()["out"])
    assert cache.class_names == ()
    assert cache.split_names == ("test",)
