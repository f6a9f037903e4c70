"""How glyph-clip is made: its pictures, its loss, and a training that ends the same however it was cut."""

import json
import math
import random

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from torch.nn import functional as F

from featcache.encoders import load
from tools.glyph_clip import augment, fonts, glyphs
from tools.glyph_clip.__main__ import letters, main
from tools.glyph_clip.train import MODEL, Settings, contrast, train

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def shapes():
    return glyphs.atlas(glyphs.builtin())


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_every_character_has_a_shape_and_a_caption_that_names_it(shapes):
    assert shapes.label.tolist() == list(range(len(glyphs.NAMES)))
    assert shapes.ink.shape == (len(glyphs.NAMES), glyphs.CANVAS, glyphs.CANVAS)
    assert (shapes.ink.flatten(1).max(1).values > 200).all()
    assert len({tuple(ink.flatten().tolist()) for ink in shapes.ink}) > 0.95 * len(shapes.ink)
    captions = glyphs.captions(random.Random(0))
    for caption, names in zip(captions, glyphs.NAMES.values(), strict=True):
        assert any(name in caption for name in names)


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_pictures_are_decided_by_their_seed(shapes, strength):
    once, again, other = (augment.pictures(shapes.ink, generator(s), strength) for s in (0, 0, 1))
    assert torch.equal(once, again)
    assert torch.equal(once, other) == (strength == 0)
    assert once.shape == (len(shapes.ink), 3, augment.IMAGE, augment.IMAGE)
    assert once.min() >= 0
    assert once.max() <= 1


def test_without_strength_a_picture_is_the_shape_itself(shapes):
    plain = augment.pictures(shapes.ink, generator(), 0.0)[:, 0]
    small = F.interpolate(shapes.ink.unsqueeze(1).float() / 255, (32, 32), mode="area").squeeze(1)
    alike = F.cosine_similarity(plain.flatten(1), small.flatten(1))
    assert alike.mean() > 0.8


def test_the_loss_against_a_loop():
    image, text = (F.normalize(torch.randn(n, 5, generator=generator(n)), dim=1) for n in (6, 4))
    label, scale = torch.tensor([0, 0, 2, 3, 2, 0]), torch.tensor(3.0)
    score = [[3.0 * float(i @ t) for t in text] for i in image]
    by_picture = [
        math.log(sum(map(math.exp, row))) - row[y] for row, y in zip(score, label.tolist(), strict=True)
    ]
    by_text = []
    for c in (0, 2, 3):
        own = sum(math.exp(row[c]) for row, y in zip(score, label.tolist(), strict=True) if y == c)
        by_text.append(-math.log(own / sum(math.exp(row[c]) for row in score)))
    expected = sum(by_picture) / 6 + sum(by_text) / 3
    assert float(contrast(image, text, label, scale)) == pytest.approx(expected, rel=1e-5)


def test_a_cut_training_ends_as_a_whole_one(shapes, tmp_path):
    class Cut(Exception):
        pass

    tokenizer, calls = letters(tmp_path / "bpe.txt.gz"), 0

    def cut(texts):
        nonlocal calls
        calls += 1
        if calls == 4:
            raise Cut
        return tokenizer(texts)

    settings = Settings(steps=5, batch=8, checkpoint_every=2, amp=False)
    whole = train(shapes, shapes, tokenizer, settings, tmp_path / "whole.pt")
    with pytest.raises(Cut):
        train(shapes, shapes, cut, settings, tmp_path / "cut.pt")
    rest = train(shapes, shapes, tokenizer, settings, tmp_path / "cut.pt")
    for name, value in whole.state_dict().items():
        assert torch.equal(value, rest.state_dict()[name]), name


@pytest.mark.slow
def test_the_smoke_run_writes_a_model_that_featcache_loads(tmp_path):
    arguments = ["--smoke", "--steps", "4", "--out", tmp_path / "model", "--work", tmp_path / "work"]
    done = CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)
    assert done.exit_code == 0
    assert f"{len(glyphs.NAMES)} shapes" in done.output
    encoder = load(f"open_clip:{tmp_path / 'model'}")
    assert encoder.encode_text(["a photo of a seven."]).shape == (1, MODEL["embed_dim"])
    stored = load_file(tmp_path / "model" / "open_clip_model.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.float16}
    assert json.loads((tmp_path / "model" / "open_clip_config.json").read_text())["model_cfg"] == MODEL


def test_every_font_is_pinned_and_free():
    lock = json.loads((fonts.LOCK).read_text())
    assert len(lock) > 100
    for pin in lock.values():
        assert pin["integrity"].startswith("sha512-")
        assert pin["licence"] in {"OFL-1.1", "Apache-2.0"}
