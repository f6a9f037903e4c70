"""scikit-learn's 1,797 handwritten digits (8x8, Alpaydin and Kaynak): real data that needs no download."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featcache.sources._labels import refuse_label_column
from featcache.sources._origin import Origin
from featcache.sources._samples import Part, assemble
from featcache.sources.base import Source

CLASS_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_TEST_SIZE = 500


def match(path: Path) -> bool:
    """Return True for the word `digits`."""
    return path == Path("digits")


def splits(path: str, label_column: str | None = None) -> dict[str, Source]:
    """Return 1,297 train and 500 test digits, a fixed stratified split of 8x8 RGB images.

    `path` is not read. Raise SourceError for a label column.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    refuse_label_column(label_column, "digits has its labels built in")
    data = load_digits()
    pixels = np.rint(data.images * (255 / 16)).astype(np.uint8)
    train, test = train_test_split(
        np.arange(len(pixels)), test_size=_TEST_SIZE, random_state=0, stratify=data.target
    )
    parts = {
        split: Part([f"digit-{row:04d}" for row in rows], data.target[rows].tolist(), _InMemory(pixels[rows]))
        for split, rows in (("train", np.sort(train)), ("test", np.sort(test)))
    }
    return assemble("image", parts, CLASS_NAMES, "digits", Origin("built in"))


@dataclass(frozen=True)
class _InMemory:
    pixels: NDArray[np.uint8]

    def __call__(self, row: int) -> NDArray[np.uint8]:
        image: NDArray[np.uint8] = self.pixels[row]
        return image
