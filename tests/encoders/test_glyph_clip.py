"""glyph-clip, the pretrained model inside the wheel: it loads offline and knows its classes."""

import hashlib
import re
import string
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont
from sklearn.datasets import load_digits
from torch.nn import functional as F

from featcache.encoders import load
from featcache.encoders.base import Geometry
from featcache.encoders.open_clip import GLYPH_CLIP

WEIGHTS = GLYPH_CLIP / "open_clip_model.safetensors"
CARD = Path(__file__).parents[2] / "data" / "README.md"
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@pytest.fixture(scope="module")
def encoder():
    return load("open_clip:glyph-clip")


def embedded(encoder, images):
    inputs = {"image": torch.stack([encoder.transform(image)["image"] for image in images])}
    return F.normalize(encoder.encode(inputs, [-1]).pooled, dim=1)


def named(encoder, names, templates=None):
    texts = [template.format(name) for name in names for template in templates or encoder.templates]
    found = F.normalize(encoder.encode_text(texts), dim=1).unflatten(0, (len(names), -1))
    return F.normalize(found.mean(1), dim=1)


def digits(count=300):
    data = load_digits()
    pixels = np.rint(data.images[:count] * (255 / 16)).astype(np.uint8)
    return [Image.fromarray(image).convert("RGB") for image in pixels], torch.from_numpy(data.target[:count])


def printed(character, size=40):
    """One character in Pillow's own font, black on white."""
    page = Image.new("RGB", (size, size), "white")
    font = ImageFont.load_default(0.7 * size)
    ImageDraw.Draw(page).text((size / 2, size / 2), character, "black", font, anchor="mm")
    return page


def test_its_shape(encoder):
    encoded = encoder.encode({"image": torch.zeros(2, 3, 32, 32)}, [-1])
    assert encoded.tokens[-1].shape == (2, 65, 128)
    assert encoded.geometry == {-1: Geometry(1, (8, 8))}
    assert encoded.pooled.shape == (2, 128)
    assert encoder.spec.name == "open_clip:glyph-clip"
    assert encoder.encode_text(["seven"]).shape == (1, 128)


def test_handwritten_digits_by_the_names_of_their_classes(encoder):
    images, labels = digits()
    found = (embedded(encoder, images) @ named(encoder, WORDS).T).argmax(1)
    assert (found == labels).float().mean() > 0.8


@pytest.mark.parametrize("names", [string.digits, [f"the number {n}" for n in WORDS]])
def test_other_names_for_the_same_classes(encoder, names):
    images, labels = digits()
    found = (embedded(encoder, images) @ named(encoder, names).T).argmax(1)
    assert (found == labels).float().mean() > 0.7


def test_polarity_does_not_matter(encoder):
    images, _ = digits(50)
    inverted = [Image.fromarray(255 - np.asarray(image)) for image in images]
    alike = embedded(encoder, images) @ embedded(encoder, inverted).T
    assert (alike.argmax(1) == torch.arange(50)).float().mean() > 0.5
    assert alike.diagonal().mean() > alike.mean() + 0.5


def test_printed_letters_by_text(encoder):
    letters = "ABEFGHKMQRTW"
    texts = named(encoder, [f"capital letter {letter}" for letter in letters])
    found = (embedded(encoder, [printed(letter) for letter in letters]) @ texts.T).argmax(1)
    assert (found == torch.arange(len(letters))).float().mean() > 0.8


def test_no_text_is_too_long_or_too_strange(encoder):
    texts = ["", "é", "🙂", "a photo of " + 100 * "seven "]
    assert encoder.encode_text(texts).isfinite().all()


def test_it_is_small_and_the_card_names_these_very_weights():
    assert WEIGHTS.stat().st_size < 8e6
    digest = hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()
    assert re.findall(r"`([0-9a-f]{64})`", CARD.read_text()).count(digest) == 1
