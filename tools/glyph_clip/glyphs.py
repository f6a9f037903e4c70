"""What glyph-clip is taught: characters, the captions that name them, and their shapes in many fonts."""

from __future__ import annotations

import random
import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

CANVAS = 64
"""Side of a rendered shape, in pixels; the model sees half of it."""
_GLYPH = 48
_RENDERED = 96
_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_SYMBOLS = {
    "+": ("plus sign", "plus"),
    "=": ("equals sign", "equals"),
    "?": ("question mark",),
    "!": ("exclamation mark",),
    "&": ("ampersand", "and sign"),
    "@": ("at sign",),
    "#": ("hash sign", "number sign"),
    "%": ("percent sign",),
    "$": ("dollar sign",),
    "*": ("asterisk", "star"),
    "/": ("slash",),
    "<": ("less than sign",),
    ">": ("greater than sign",),
    "(": ("opening parenthesis", "left parenthesis"),
    ")": ("closing parenthesis", "right parenthesis"),
}
NAMES: dict[str, tuple[str, ...]] = (
    {
        str(n): (word, str(n), f"digit {word}", f"number {word}", f"digit {n}", f"number {n}")
        for n, word in enumerate(_DIGITS)
    }
    | {c: (f"small letter {c}", f"lowercase letter {c}", f"lowercase {c}") for c in string.ascii_lowercase}
    | {
        c: (f"capital letter {c}", f"uppercase letter {c}", f"capital {c}", f"letter {c}")
        for c in string.ascii_uppercase
    }
    | _SYMBOLS
)
"""Every character of the training set and the ways to name it; the text tower reads lower case only."""
TEMPLATES = (
    "{}", "a {}", "the {}", "a photo of a {}.", "a photo of the {}.", "a picture of a {}", "an image of {}",
    "a drawing of a {}.", "a handwritten {}", "a scan of a {}", "a bad photo of the {}.", "itap of a {}.",
    "a photo of the large {}.", "a photo of the small {}.", "art of the {}.", "a blurry {}", "a printed {}",
    "someone wrote {}",
)  # fmt: skip


def captions(rng: random.Random) -> list[str]:
    """One caption for every character, in the order of NAMES: a template and a name, drawn at random."""
    return [rng.choice(TEMPLATES).format(rng.choice(names)) for names in NAMES.values()]


@dataclass(frozen=True)
class Atlas:
    """`ink` (N, CANVAS, CANVAS) uint8, 0 to 255, and `label` (N,) int64, the place of each in NAMES."""

    ink: Tensor
    label: Tensor


def atlas(fonts: Sequence[ImageFont.FreeTypeFont]) -> Atlas:
    """Every character that every font has, once, centred and scaled to its bounding box."""
    shapes, labels = [], []
    for font in fonts:
        missing = _render(font, "\U0010fffe")
        for label, character in enumerate(NAMES):
            shape = _render(font, character)
            if shape is not None and (missing is None or not np.array_equal(shape, missing)):
                shapes.append(shape)
                labels.append(label)
    return Atlas(torch.from_numpy(np.stack(shapes)), torch.tensor(labels))


def load(files: Sequence[Path]) -> list[ImageFont.FreeTypeFont]:
    """Font files at the size in which `atlas` renders."""
    return [ImageFont.truetype(file, _RENDERED) for file in files]


def builtin() -> list[ImageFont.FreeTypeFont]:
    """The one font that comes with Pillow, for a run without a network."""
    font = ImageFont.load_default(_RENDERED)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return [font]


def _render(font: ImageFont.FreeTypeFont, character: str) -> NDArray[np.uint8] | None:
    sheet = Image.new("L", (4 * _RENDERED, 4 * _RENDERED))
    ImageDraw.Draw(sheet).text((_RENDERED, _RENDERED), character, font=font, fill=255)
    box = sheet.getbbox()
    if box is None:
        return None
    shape = sheet.crop(box)
    scale = _GLYPH / max(shape.size)
    size = (max(1, round(shape.width * scale)), max(1, round(shape.height * scale)))
    canvas = Image.new("L", (CANVAS, CANVAS))
    corner = ((CANVAS - size[0]) // 2, (CANVAS - size[1]) // 2)
    canvas.paste(shape.resize(size, Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC), corner)
    return np.asarray(canvas)
