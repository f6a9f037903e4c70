"""Packages of runs on photos and on texts, with frozen models that the tests make."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import open_clip
import pytest
import torch
import transformers

import featcache as fc
from featcache.encoders import hf


class Trained(NamedTuple):
    """A cache, and a run on it."""

    cache: Path
    run: Path


@pytest.fixture
def trained(photos: Path, tmp_path: Path) -> Callable[..., Trained]:
    """Extracts photos, or another source, and trains on them for three steps."""

    def make(model: str, objective: str = "linear", source: Path = photos, **options: Any) -> Trained:
        cache, run = tmp_path / "made" / "c.zarr", tmp_path / "made" / "run"
        fc.extract(source, model, cache, num_workers=0, **options)
        short = {"optim": {"steps": 3, "batch_size": 4, "lr": 0.03}, "projector": {"heads": 2}}
        probe = objective in ("linear", "knn", "zero_shot")
        fc.train(cache, objective, labels_per_class=2, out=run, options={} if probe else short)
        return Trained(cache, run)

    return make


@pytest.fixture(scope="session")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny vision transformer, as `save_pretrained` writes it."""
    folder = tmp_path_factory.mktemp("vit")
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    torch.manual_seed(0)
    with hf.silent(transformers):
        transformers.ViTModel(transformers.ViTConfig(image_size=32, patch_size=8, **sizes)).save_pretrained(
            folder
        )
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny text model with its tokenizer."""
    folder = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cat", "sat", "on", "the", "mat", "dog", "ran"]
    (folder / "vocab.txt").write_text("\n".join(words))
    transformers.BertTokenizer(str(folder / "vocab.txt"), model_max_length=12).save_pretrained(folder)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.BertConfig(vocab_size=len(words), max_position_embeddings=12, **sizes)
    torch.manual_seed(0)
    with hf.silent(transformers):
        transformers.BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tower(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny model of open_clip, whose architecture is registered in this process only."""
    vision = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}
    text = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    path = tmp_path_factory.mktemp("open_clip") / "packaged-vit.json"
    path.write_text(json.dumps({"embed_dim": 24, "vision_cfg": vision, "text_cfg": text}))
    open_clip.add_model_config(path)
    return "open_clip:packaged-vit/random"


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """A table of texts about cats and dogs."""
    lines = [f"the {kind} {verb} on the mat{' ' + kind if row % 2 else ''},{kind}"
             for row, verb in enumerate(["sat", "ran", "sat ran", "ran sat", "on", "cat dog"])
             for kind in ("cat", "dog")]  # fmt: skip
    path = tmp_path / "texts.csv"
    path.write_text("text,label\n" + "\n".join(lines) + "\n")
    return path
