"""Checkpoints as people have them: the features are those of the weights, and what is left out is named."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from featcache import encoders
from featcache.errors import EncoderError
from featcache.sources import open_source

State = Mapping[str, Tensor]


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    import timm

    torch.manual_seed(3)
    made: dict[str, Tensor] = timm.create_model("test_vit").state_dict()
    return made


def pooled(model: str) -> Tensor:
    encoder = encoders.load(model)
    return encoder.encode(
        {"image": encoder.transform(open_source("digits")["train"][0])["image"][None]}, [-1]
    ).pooled


def without_head(state: State) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if not key.startswith("head.")}


def prefixed(prefix: str, state: State) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in state.items()}


def other(state: State) -> dict[str, Tensor]:
    return {key: value + 0.1 for key, value in state.items()}


KINDS: dict[str, tuple[Callable[[State], Any], str]] = {
    "as timm writes it": (dict, ""),
    "another head": (lambda s: {k: v[:7] if "head" in k else v for k, v in s.items()}, "head.weight"),
    "no head": (lambda s: {"model": without_head(s)}, ""),
    "DDP and arguments": (
        lambda s: {"state_dict": prefixed("module.", s), "args": argparse.Namespace(lr=1)},
        "",
    ),
    "compiled": (lambda s: prefixed("_orig_mod.module.", s), ""),
    "Lightning": (
        lambda s: {"state_dict": prefixed("model.backbone.", s) | {"loss.w": torch.ones(2)}, "epoch": 1},
        "loss.w",
    ),
    "MAE": (lambda s: {"model": without_head(s) | {"decoder.w": torch.ones(2)}}, "decoder.w"),
    "EMA beside": (lambda s: {"state_dict": other(s), "state_dict_ema": s}, "state_dict"),
    "DINO": (
        lambda s: {
            "student": prefixed("module.backbone.", other(without_head(s))),
            "teacher": prefixed("backbone.", without_head(s)),
            "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}},
        },
        "student",
    ),
    "both in one": (
        lambda s: prefixed("student.", other(without_head(s))) | prefixed("teacher.", without_head(s)),
        "student.",
    ),
    "only a teacher": (lambda s: {"student": {}, "teacher": prefixed("backbone.", without_head(s))}, ""),
    "bfloat16": (lambda s: {key: value.bfloat16() for key, value in s.items()}, ""),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_weights_are_found(tmp_path: Path, state: State, kind: str) -> None:
    make, left_out = KINDS[kind]
    torch.save(make(state), tmp_path / "mine.pth")
    torch.save(dict(state), tmp_path / "plain.pth")
    found, expected = (
        pooled(f"timm:test_vit/{tmp_path}/mine.pth"),
        pooled(f"timm:test_vit/{tmp_path}/plain.pth"),
    )
    assert torch.allclose(found, expected, atol=0.05 if kind == "bfloat16" else 0)
    notes = encoders.load(f"timm:test_vit/{tmp_path}/mine.pth").notes
    assert [left_out in note for note in notes] == [True] * bool(left_out)


def test_several_sets_are_a_question(tmp_path: Path, state: State) -> None:
    file = tmp_path / "mine.pth"
    torch.save({"a": state, "b": other(state)}, file)
    with pytest.raises(EncoderError, match=r"(?s)a, b.*#b"):
        encoders.load(f"timm:test_vit/{file}")
    encoder = encoders.load(f"timm:test_vit/{file}#b")
    assert encoder.spec.name == "timm:test_vit/mine.pth#b"
    assert torch.equal(encoder.module.state_dict()["cls_token"], state["cls_token"] + 0.1)
    with pytest.raises(EncoderError, match=r"(?s)got: +c.*a, b"):
        encoders.load(f"timm:test_vit/{file}#c")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda s: {k: v for k, v in s.items() if "blocks.1" not in k}, r"no blocks\.1\.norm1\.weight"),
        (lambda s: {k: v[..., :3] for k, v in s.items()}, "is .*not"),
        (lambda s: {"epoch": 1}, "no weights"),
        (lambda s: torch.nn.Linear(2, 2), "(?s)could run code.*weights alone"),
    ],
)
def test_what_does_not_fit_is_named(
    tmp_path: Path, state: State, make: Callable[[State], Any], message: str
) -> None:
    torch.save(make(state), tmp_path / "mine.pth")
    with pytest.raises(EncoderError, match=message):
        encoders.load(f"timm:test_vit/{tmp_path}/mine.pth")


def test_open_clip_files(tmp_path: Path) -> None:
    import open_clip

    small = json.loads((Path(encoders.__file__).parent / "glyph-clip/open_clip_config.json").read_text())
    (tmp_path / "tiny-test.json").write_text(json.dumps(small["model_cfg"]))
    open_clip.add_model_config(tmp_path)
    state = open_clip.create_model("tiny-test").state_dict()
    torch.save({"state_dict": prefixed("module.", other(state)), "ema": state}, tmp_path / "a.pt")
    encoder = encoders.load(f"open_clip:tiny-test/{tmp_path}/a.pt")
    assert all(torch.equal(value, state[key]) for key, value in encoder.module.state_dict().items())
    assert "state_dict" in encoder.notes[0]
    torch.save(
        {"state_dict": {key: value for key, value in state.items() if "ln_post" not in key}},
        tmp_path / "b.pt",
    )
    with pytest.raises(EncoderError, match=r"no visual\.ln_post"):
        encoders.load(f"open_clip:tiny-test/{tmp_path}/b.pt")
