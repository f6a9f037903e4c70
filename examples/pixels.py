"""A control without a model: an image's own grey pixels, to see what a frozen model adds to them.

    featcache extract digits --model python:examples/pixels.py:build --out pixels.zarr

Every row of pixels is a token; pooled is all of them.
"""

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import v2

SIDE = 8


class Pixels(nn.Module):
    """(B, SIDE, SIDE) pixels to as many tokens as rows, and pooled (B, SIDE * SIDE)."""

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        return {"tokens": pixels, "pooled": pixels.flatten(1)}


def build():
    """The module and its transform."""
    return Pixels(), transform


def transform(image: Image.Image) -> Tensor:
    """One image as (SIDE, SIDE) float32 between 0 and 1."""
    grey = v2.functional.pil_to_tensor(image.convert("L").resize((SIDE, SIDE)))
    return grey[0].to(torch.float32) / 255
