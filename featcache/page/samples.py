"""Samples to look at: which ones, their picture or text, and where the projector looked."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.api.predictions import Predictions
from featcache.errors import FeatcacheError
from featcache.filing.originals import source_of

SHOWN = 24
"""Most samples of a kind in the page."""
SIDE = 96
"""Pixels of a thumbnail."""
ORANGE, OPAQUE = (255, 120, 0), 200
"""Colour of what was looked at, and its opacity where it was looked at most (of 255)."""
LONGEST = 300
"""Characters of a text."""
Rows = NDArray[np.int64]


def mistakes(found: Predictions) -> Rows:
    """Return the positions of wrong predictions, the most confident first."""
    wrong = found.judged & ~found.learned & (found.label != found.truth)
    return _most(wrong, found.confidence)


def least_sure(found: Predictions) -> Rows:
    """Return the positions of predictions, the least confident first."""
    return _most(found.predicted & ~found.learned, -found.confidence)


def _most(chosen: NDArray[np.bool_], score: NDArray[np.float64]) -> Rows:
    rows = np.flatnonzero(chosen)
    return rows[np.argsort(-score[rows], kind="stable")[:SHOWN]]


def said(error: FeatcacheError) -> str:
    """Return what was wrong, with which value, on one line."""
    return str(error.what) if error.got is None else f"{error.what} ({error.got})"


@dataclass(frozen=True)
class Pictures:
    """The samples of a split, read from the source of their cache by id."""

    source: Any
    row: Mapping[str, int]
    crops: bool
    """True if the model sees the square in the middle of an image, False if it sees the image squeezed."""
    problem: str | None = None
    """Why there are none."""

    @classmethod
    def of(cls, provenance: Mapping[str, Any], source: str | None, split: str, preprocess: str) -> Pictures:
        """Open `source`, or the one that a cache records; a problem is kept, not raised."""
        try:
            found = source_of(provenance, source)
            if split not in found:
                raise FeatcacheError(f"the source has no split `{split}`", got=", ".join(found))
        except FeatcacheError as error:
            return cls(None, {}, False, said(error))
        samples = found[split]
        rows = {name: number for number, name in enumerate(samples.ids)}
        return cls(samples, rows, "crop" in preprocess.lower())

    def of_sample(self, name: str) -> dict[str, str]:
        """Return the `image` of a sample as a data URI, or its `text`; nothing if it cannot be read."""
        if name not in self.row:
            return {}
        try:
            sample = self.source[self.row[name]]
        except FeatcacheError:
            return {}
        if isinstance(sample, str):
            return {"text": " ".join(sample.split())[:LONGEST]}
        return {"image": self._thumbnail(sample)}

    def _thumbnail(self, image: Any) -> str:
        """Return the square that the model sees, small, as WebP in a data URI."""
        from PIL import Image, ImageOps

        near, far = Image.Resampling.NEAREST, Image.Resampling.LANCZOS
        how = near if max(image.size) < SIDE else far
        size = (SIDE, SIDE)
        small = ImageOps.fit(image, size, how) if self.crops else image.resize(size, how)
        return _data_uri(small.convert("RGB"), "webp", quality=70)


def overlay(weights: NDArray[np.float32], grid: tuple[int, int], prefix: int) -> str:
    """Return weights (T,) over a grid as a small image, the more opaque the more was looked at."""
    from PIL import Image

    field = weights[prefix : prefix + grid[0] * grid[1]].reshape(grid)
    pixels = np.full((*grid, 4), (*ORANGE, 0), np.uint8)
    pixels[..., 3] = np.round(field / max(float(field.max()), 1e-12) * OPAQUE)
    return _data_uri(Image.fromarray(pixels), "png", optimize=True)


def _data_uri(image: Any, kind: str, **options: Any) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def cards(
    found: Predictions, rows: Rows, pictures: Pictures, looks: Mapping[int, str]
) -> list[dict[str, Any]]:
    """Describe the predictions at some positions; `looks` are overlays by position."""
    chosen = found[rows]
    confidence, second, less = chosen.confidence, chosen.second, chosen.second_confidence
    plain = [
        {
            "id": chosen.id[place],
            "truth": chosen.truth[place],
            "prediction": chosen.label[place],
            "confidence": float(confidence[place]),
            "second": second[place],
            "second_confidence": None if second[place] is None else float(less[place]),
        }
        for place in range(len(rows))
    ]
    return [
        card | pictures.of_sample(card["id"]) | ({"look": looks[row]} if row in looks else {})
        for card, row in zip(plain, rows.tolist(), strict=True)
    ]
