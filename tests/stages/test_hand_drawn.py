"""A user's first try: pictures of handwritten digits in ten formats, odd sizes, colours and both polarities.

The handwriting is real (scikit-learn's last digits, by other hands than the rows trained on); paper, pen,
light, margin and file format are made here. Only the folder and the model are named on the command line.
"""

import csv
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from featcache.sources.digits import CLASS_NAMES

pytestmark = pytest.mark.usefixtures("one_thread")

# Width, height, paper, pen, file, mode, and how it is saved.
PICTURES = [
    (317, 241, (250, 248, 240), (20, 30, 120), "jpg", "RGB", {"quality": 60}),
    (97, 160, (30, 60, 40), (240, 240, 225), "png", "RGB", {}),
    (640, 480, (235, 225, 200), (90, 20, 20), "webp", "RGB", {"quality": 70}),
    (55, 61, (255, 255, 255), (0, 0, 0), "png", "1", {}),
    (128, 128, (10, 10, 10), (200, 200, 200), "bmp", "L", {}),
    (401, 399, (180, 200, 255), (10, 10, 60), "png", "P", {}),
    (200, 311, (255, 255, 255), (0, 90, 0), "png", "RGBA", {}),
    (333, 222, (240, 240, 240), (40, 40, 40), "jpg", "CMYK", {}),
    (150, 210, (60, 20, 60), (255, 220, 0), "gif", "P", {}),
    (512, 300, (210, 210, 210), (50, 40, 30), "tiff", "L", {}),
]


def drawn(digit, width, height, paper, pen):
    """An 8x8 digit as a pen of that colour would have left it: smooth, off centre, unevenly lit."""
    side = round(0.7 * min(width, height))
    ink = Image.fromarray((digit * (255 / 16)).astype(np.uint8)).resize(
        (side, side), Image.Resampling.BICUBIC
    )
    sheet = Image.new("L", (width, height))
    sheet.paste(ink, (round(0.55 * (width - side)), round(0.45 * (height - side))))
    cover = np.asarray(sheet)[..., None] / 255
    light = np.linspace(0.85, 1, width)[None, :, None]
    pixels = light * (cover * np.array(pen) + (1 - cover) * np.array(paper))
    return Image.fromarray(pixels.astype(np.uint8)), sheet


def save(path: Path, picture: Image.Image, sheet: Image.Image, mode: str, options: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if mode == "RGBA":  # cut out: opaque where there is ink, as a drawing program leaves it
        picture = picture.copy()
        picture.putalpha(sheet)
    else:
        picture = picture.convert(mode)
    picture.save(path, **options)


@pytest.fixture
def pictures(tmp_path):
    """Thirty: every digit in three hands, and every kind of picture three times."""
    data, folder = load_digits(), tmp_path / "my digits"
    for digit, hand in product(range(10), range(3)):
        kind = (digit + 3 * hand) % len(PICTURES)
        width, height, paper, pen, suffix, mode, options = PICTURES[kind]
        row = np.flatnonzero(data.target == digit)[-1 - 7 * hand]
        picture, sheet = drawn(data.images[row], width, height, paper, pen)
        save(folder / CLASS_NAMES[digit] / f"scan {hand}.{suffix}", picture, sheet, mode, options)
    return folder


@pytest.mark.parametrize("objective", ["zero_shot", "linear"])
def test_pictures_are_told_apart_without_a_flag(featcache, pictures, tmp_path, objective):
    model = ("--model", "open_clip:glyph-clip")
    featcache("extract", "digits", *model, "--limit", 400, "--out", tmp_path / "digits.zarr")
    run = tmp_path / "run"
    labels = ("--labels-per-class", 4)
    featcache("train", tmp_path / "digits.zarr", "--objective", objective, *labels, "--out", run)
    # A probe reads no tokens, so those of the two caches may differ.
    featcache("extract", pictures, *model, "--tokens", "cls", "--out", tmp_path / "mine.zarr")
    out = tmp_path / "predictions.csv"
    said = featcache("predict", run, tmp_path / "mine.zarr", "--out", out).output
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 30
    right = sum(row["prediction"] == row["label"] for row in rows)
    assert f"accuracy {100 * right / len(rows):.2f} % of 30 labelled" in said
    assert right >= 24, [(row["id"], row["prediction"]) for row in rows]
