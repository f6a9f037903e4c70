"""Samples that are given in memory, as a source."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from featcache.errors import SourceError
from featcache.sources._files import read_file
from featcache.sources._image import decode, from_array, rgb
from featcache.sources.base import UNLABELLED
from featcache.specs import Modality

Sample = Any
"""A PIL image, an array (H, W[, C]), the bytes of an image file, or its path; for a model of texts, a str."""


class Given:
    """A source of samples without labels; a path is its own id, another sample has its number as id."""

    class_names: tuple[str, ...] = ()

    def __init__(self, samples: Sequence[Sample], modality: Modality) -> None:
        """Take samples; raises SourceError for a type that the model does not read."""
        self.modality, self._samples = modality, samples
        kinds = (str,) if modality == "text" else (Image.Image, np.ndarray, bytes, str, os.PathLike)
        for number, sample in enumerate(samples):
            if not isinstance(sample, kinds):
                raise SourceError(
                    f"sample {number} cannot be read by a model of {modality}s",
                    got=type(sample).__name__,
                    expected="str" if modality == "text" else "a PIL image, an array, bytes, or a path",
                )
        named = (str, os.PathLike) if modality == "image" else ()
        self.ids: Sequence[str] = [
            os.fspath(sample) if isinstance(sample, named) else str(number)
            for number, sample in enumerate(samples)
        ]
        self.labels: NDArray[np.int64] = np.full(len(samples), UNLABELLED)

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Any:
        sample = self._samples[index]
        if self.modality == "text":
            return sample
        if isinstance(sample, Image.Image):
            return rgb(sample)
        if isinstance(sample, np.ndarray):
            return from_array(sample)
        return decode(sample if isinstance(sample, bytes) else read_file(Path(sample).expanduser()))

    def content(self, index: int) -> bytes:
        """Raise TypeError, as samples in memory have no bytes of a file."""
        raise TypeError("samples in memory have no stored bytes")


def as_list(samples: Sample | Sequence[Sample]) -> list[Sample]:
    """Return a list of samples; one sample is a list of one.

    >>> as_list("a photo.png"), as_list(["a", "b"]), as_list(np.zeros((5, 8, 8)))[0].shape
    (['a photo.png'], ['a', 'b'], (8, 8))
    """
    if isinstance(samples, np.ndarray):
        one = samples.ndim == 2 or (samples.ndim == 3 and samples.shape[2] in (3, 4))
    else:
        one = isinstance(samples, (Image.Image, bytes, str, os.PathLike))
    return [samples] if one else list(samples)
