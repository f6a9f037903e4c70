"""A tiny frozen model whose values are the same on every machine: it adds whole numbers and scales by 2^-12.

The caches in `eab5498.tar.gz` record the SHA-256 of this file, and the archive holds a copy.
"""

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

SIDE, PATCH = 16, 4


class Exact(nn.Module):
    """(B, 16, 16) grey values to a CLS token and a grid of 4 by 4, each of 8 dims.

    Pooled is the brightness of each patch, (B, 16).
    """

    def __init__(self) -> None:
        super().__init__()
        signs = [[1 - 2 * ((pixel >> bit) & 1) for bit in range(4)] for pixel in range(PATCH * PATCH)]
        signs = [[*row, row[0] * row[2], row[1] * row[3], row[0] * row[3], 1] for row in signs]
        self.register_buffer("signs", torch.tensor(signs, dtype=torch.float32))

    def forward(self, grey: Tensor) -> dict[str, object]:
        patches = grey.unfold(1, PATCH, PATCH).unfold(2, PATCH, PATCH).flatten(3).flatten(1, 2)
        grid = patches @ self.signs / 4096
        tokens = torch.cat([grid.sum(1, keepdim=True) / 16, grid], 1)
        return {"tokens": tokens, "pooled": grid[..., -1], "prefix": 1, "grid": (4, 4)}


def build():
    """The module and its transform."""
    return Exact(), transform


def transform(image: Image.Image) -> Tensor:
    """One image as (16, 16) whole numbers from 0 to 255."""
    return torch.from_numpy(
        np.array(image.convert("L").resize((SIDE, SIDE), Image.Resampling.NEAREST))
    ).float()
