"""Rendered shapes into pictures as a camera, a pen or a bad scan might give them: batch by batch, in torch.

Every function takes ink (B, 1, H, W) float32 between 0 (paper) and 1 (ink), a seeded generator, and a
strength from 0 (clean print, white on black) to 1: a transformer that sees the hardest pictures first learns
nothing for long.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

IMAGE = 32
"""Side of the pictures, in pixels."""
_COARSE = (7, 8, 10, 12, 16, 22)
"""Resolutions that a picture may have gone through before it was enlarged."""
_LEAST = 1e-6
"""Instead of no strength at all, where it divides."""


def pictures(shapes: Tensor, generator: torch.Generator, strength: float = 1.0) -> Tensor:
    """Shapes (B, S, S) uint8 to RGB pictures (B, 3, IMAGE, IMAGE) float32 between 0 and 1."""
    ink = stroke_width(shapes.unsqueeze(1).float() / 255, generator, strength)
    for step in (warp, clutter, soften, paint):
        ink = step(ink, generator, strength)
    return ink.clamp(0, 1)


def stroke_width(ink: Tensor, generator: torch.Generator, strength: float) -> Tensor:
    """Strokes thinner or thicker, by grey erosion and dilation; a shape that would vanish stays."""
    thin = -F.max_pool2d(-ink, 3, 1, 1)
    thin = torch.where(_mass(thin) > 0.4 * _mass(ink), thin, ink)
    choices = torch.stack([thin, ink, *(F.max_pool2d(ink, k, 1, k // 2) for k in (3, 5, 7))])
    level = 1 + strength * _uniform(len(ink), -1, 3, generator)
    low = level.long().clamp(max=3)
    each = torch.arange(len(ink))
    return torch.lerp(choices[low, each], choices[low + 1, each], (level - low).view(-1, 1, 1, 1))


def warp(ink: Tensor, generator: torch.Generator, strength: float) -> Tensor:
    """Scale (each axis), slant, rotation, place and an elastic bend, in one sampling to IMAGE x IMAGE."""
    size = len(ink)

    def uniform(low: float, high: float) -> Tensor:
        return strength * _uniform(size, low, high, generator)

    scale = 0.9 * uniform(-0.25, 0.65).exp()  # of the window, so that above 1 the glyph is smaller
    stretch = uniform(-0.35, 0.35).exp()
    angle, slant = uniform(-0.35, 0.35), uniform(-0.35, 0.35)
    cos, sin = angle.cos(), angle.sin()
    room = 0.35 * (scale - 0.6).clamp(min=0.1)
    rows = [
        torch.stack([cos * scale * stretch, (slant - sin) * scale, uniform(-1, 1) * room], 1),
        torch.stack([sin * scale, cos * scale / stretch, uniform(-1, 1) * room], 1),
    ]
    grid = F.affine_grid(torch.stack(rows, 1), [size, 1, IMAGE, IMAGE], align_corners=False)
    knots = torch.randn(size, 2, 4, 4, generator=generator) * uniform(0.0, 0.14).view(-1, 1, 1, 1)
    bend = F.interpolate(knots, (IMAGE, IMAGE), mode="bicubic", align_corners=True)
    return F.grid_sample(ink, grid + bend.permute(0, 2, 3, 1), align_corners=False)


def clutter(ink: Tensor, generator: torch.Generator, strength: float) -> Tensor:
    """In some pictures a neighbour's edge comes into view, or a ruled line."""
    neighbours = ink.roll(1, 0)
    sideways = torch.rand(len(ink), generator=generator) < 0.5
    shift = int(torch.randint(IMAGE * 5 // 8, IMAGE * 7 // 8, (), generator=generator))
    moved = torch.where(
        sideways.view(-1, 1, 1, 1), _shift(neighbours, shift, 3), _shift(neighbours, shift, 2)
    )
    line = torch.zeros_like(ink)
    row = torch.randint(0, IMAGE, (len(ink),), generator=generator)
    line[torch.arange(len(ink)), 0, row] = 0.8
    kind = torch.rand(len(ink), 1, 1, 1, generator=generator) / max(strength, _LEAST)
    extra = torch.where(kind < 0.12, moved, torch.where(kind < 0.2, line, torch.zeros_like(ink)))
    return torch.maximum(ink, extra)


def soften(ink: Tensor, generator: torch.Generator, strength: float) -> Tensor:
    """Blurred a little; up to half of the pictures pass through a coarse resolution; contrast varies."""
    coarse = (torch.rand(len(ink), generator=generator) * 2 * len(_COARSE) / max(strength, _LEAST)).floor()
    ink = _blur(ink, strength * _uniform(len(ink), 0.0, 1.1, generator))
    for which, side in enumerate(_COARSE):
        rows = (coarse == which).nonzero().squeeze(1)
        if len(rows):
            mode = "bicubic" if which % 2 else "bilinear"
            small = F.interpolate(ink[rows], (side, side), mode="area")
            large = F.interpolate(small, (IMAGE, IMAGE), mode=mode, align_corners=False)
            ink = ink.index_copy(0, rows, large.clamp(0, 1))
    peak = ink.amax((1, 2, 3), keepdim=True).clamp(min=0.1)
    gamma = (strength * _uniform(len(ink), -0.5, 0.6, generator)).exp().view(-1, 1, 1, 1)
    return (ink / peak).pow(gamma)


def paint(ink: Tensor, generator: torch.Generator, strength: float) -> Tensor:
    """Ink and paper in any two colours that differ enough, either one darker, unevenly lit, with noise."""
    size = len(ink)

    def uniform(low: float, high: float) -> Tensor:
        return _uniform(size, low, high, generator).view(-1, 1, 1, 1)

    contrast = 1 - strength * uniform(0.0, 0.65)
    dark_ink = uniform(0, 1) < 0.5 * strength
    middle = contrast / 2 + uniform(0, 1) * (1 - contrast)
    tint = 0.3 * strength * torch.randn(2, size, 3, 1, 1, generator=generator) * (uniform(0, 1) < 0.4)
    sign = torch.where(dark_ink, 1.0, -1.0)
    paper, pen = middle + sign * contrast / 2 + tint[0], middle - sign * contrast / 2 + tint[1]
    slope = 0.08 * strength * torch.randn(size, 2, 1, 1, generator=generator)
    across = torch.linspace(-1, 1, IMAGE)
    light = slope[:, :1] * across.view(1, 1, 1, -1) + slope[:, 1:] * across.view(1, 1, -1, 1)
    noise = torch.randn(size, 3, IMAGE, IMAGE, generator=generator)
    return torch.lerp(paper, pen, ink) + light + strength * uniform(-0.04, 0.08).clamp(min=0) * noise


def _blur(ink: Tensor, sigma: Tensor) -> Tensor:
    """A Gaussian of its own width (pixels) for every picture."""
    offsets = torch.arange(-2.0, 3.0)
    kernel = torch.exp(-(offsets**2) / (2 * sigma.clamp(min=0.1).unsqueeze(1) ** 2))
    kernel = kernel / kernel.sum(1, keepdim=True)
    pixels = ink.transpose(0, 1)
    for shape, padding in (((-1, 1, 1, 5), (0, 2)), ((-1, 1, 5, 1), (2, 0))):
        pixels = F.conv2d(pixels, kernel.view(shape), padding=padding, groups=len(ink))
    return pixels.transpose(0, 1)


def _shift(ink: Tensor, by: int, dim: int) -> Tensor:
    moved = ink.roll(by, dim)
    moved.narrow(dim, 0, by).zero_()
    return moved


def _mass(ink: Tensor) -> Tensor:
    return ink.sum((1, 2, 3), keepdim=True)


def _uniform(size: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(size, generator=generator)
