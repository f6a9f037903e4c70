"""The numbers of one sample, which tell whether a package does on a machine what it did on another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors.numpy import load, save

from featcache.api.predictions import Predictions
from featcache.extraction.forward import TOLERANCE
from featcache.packaging.package import Package
from featcache.runs.saved import header, read_tensors, readable, write_tensors
from featcache.specs import Modality

_TEXTS = ("The quick brown fox jumps over the lazy dog.", "Pack my box.")
_BLOCK = 8


def sample_of(modality: Modality, number: int = 0) -> Any:
    """Return one of two samples: texts, or images of coloured blocks, the same on every machine.

    >>> sample_of("image").size, sample_of("text", 1)
    ((224, 192), 'Pack my box.')
    """
    if modality == "text":
        return _TEXTS[number]
    colours = np.random.default_rng(number).integers(0, 256, (24, 28, 3), np.uint8)
    return Image.fromarray(colours.repeat(_BLOCK, 0).repeat(_BLOCK, 1))


def save_check(predictions: Predictions, path: Path) -> None:
    """Write the numbers of the sample, (d,) z and (C,) probabilities."""
    numbers = {"z": predictions.z[0], "probabilities": predictions.probabilities[0]}
    write_tensors(path, save(numbers, header()))


def checked(predictions: Predictions, path: Path, package: Package) -> str | None:
    """Return how the numbers differ from those in the file; None if they are the same up to rounding.

    Raises DamagedRun or TrainError if the file is missing or damaged.
    """
    with readable(path):
        kept = load(read_tensors(path)[0])
        z, shares = kept["z"], kept["probabilities"]
        if z.shape != predictions.z[0].shape or shares.shape != predictions.probabilities[0].shape:
            raise ValueError("arrays whose shapes do not fit")
    apart = float(np.linalg.norm(predictions.z[0] - z) / max(float(np.linalg.norm(z)), 1e-12))
    shifted = float(np.abs(predictions.probabilities[0] - shares).max())
    allowed = TOLERANCE[package.amp]
    if apart <= allowed and shifted <= 10 * allowed:
        return None
    versions = "; ".join(package.differing()) or "the same versions are installed"
    return (
        f"this machine gives other numbers than the one that made the package: features {apart:.1%} of their "
        f"norm apart, probabilities up to {shifted:.3f} ({versions})"
    )
