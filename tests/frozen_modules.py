"""A user's own frozen modules, as `python:FILE:factory` takes them: tiny, and some of them broken on purpose.

They misbehave for white images only, so that a test decides which sample it is.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

Made = tuple[nn.Module, Callable[[Any], Any]]


def pixels(image: Image.Image) -> Tensor:
    """(3, 16, 16)"""
    return _tensor(image.resize((16, 16)))


def _tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255


class Tiny(nn.Module):
    """CLS and a grid of 4 by 4, in two layers."""

    def __init__(self, dim: int = 8) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, dim, 4, stride=4)
        self.mix = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> dict[str, Any]:
        patches = self.patch(x).flatten(2).transpose(1, 2)
        first = torch.cat([patches.mean(1, keepdim=True), patches], 1)
        last = torch.tanh(self.mix(first))
        return {"tokens": {-1: last, -2: first}, "pooled": 2 * last[:, 0], "prefix": 1, "grid": (4, 4)}


class Slow(Tiny):
    """Takes 20 ms a batch, or what the environment says."""

    def forward(self, x: Tensor) -> dict[str, Any]:
        time.sleep(float(os.environ.get("PAUSE", "0.02")))
        return super().forward(x)


class Spoilt(Tiny):
    """The last token of a white image is `value`."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor) -> dict[str, Any]:
        out = super().forward(x)
        out["tokens"][-1][x.mean((1, 2, 3)) > 0.99, -1] = self.value
        return out


class Cramped(Tiny):
    """A module that runs out of memory above a number of samples."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room
        self.asked: list[int] = []

    def forward(self, x: Tensor) -> dict[str, Any]:
        self.asked.append(len(x))
        if len(x) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried 2 GiB")
        return super().forward(x)


class Changed(Tiny):
    """Tiny with a changed output."""

    def __init__(self, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        super().__init__()
        self.change = change

    def forward(self, x: Tensor) -> dict[str, Any]:
        return self.change(super().forward(x))


def _raise(error: BaseException) -> Any:
    raise error


def _unless_white(do: Callable[[], Any]) -> Callable[[Image.Image], Tensor]:
    def transform(image: Image.Image) -> Tensor:
        made = pixels(image)
        if made.mean() > 0.99:
            do()
        return made

    return transform


def tiny() -> Made:
    return Tiny(), pixels


def other() -> Made:
    module = Tiny()
    module.mix.weight.data.mul_(2)
    return module, pixels


def wide() -> Made:
    return Tiny(1024), pixels


def slow() -> Made:
    return Slow(), pixels


def slow_pixels() -> Made:
    return Tiny(), lambda image: (time.sleep(0.04), pixels(image))[1]


def overflow() -> Made:
    return Spoilt(1e5), pixels


def nan() -> Made:
    return Spoilt(float("nan")), pixels


def inf() -> Made:
    return Spoilt(float("-inf")), pixels


def wrong_grid() -> Made:
    return Changed(lambda out: out | {"grid": (3, 3)}), pixels


def one_answer() -> Made:
    return Changed(lambda out: out | {"pooled": out["pooled"][:1]}), pixels


def flat_pooled() -> Made:
    return Changed(lambda out: out | {"pooled": out["pooled"][:, 0]}), pixels


def forgetful() -> Made:
    def drop(out: dict[str, Any]) -> dict[str, Any]:
        return out | {"tokens": {n: torch.nn.functional.dropout(x, 0.1) for n, x in out["tokens"].items()}}

    return Changed(drop), pixels


def sociable() -> Made:
    return Changed(lambda out: out | {"pooled": out["pooled"] - out["pooled"].mean(0) / 9}), pixels


def no_memory() -> Made:
    return Changed(lambda out: _raise(torch.OutOfMemoryError("CUDA out of memory. Tried 2 GiB"))), pixels


def cramped() -> Made:
    return Cramped(3), pixels


def roomy() -> Made:
    return Cramped(100), pixels


def broken() -> Made:
    return Changed(lambda out: _raise(KeyError("features"))), pixels


def picky() -> Made:
    return Tiny(), _unless_white(lambda: _raise(ValueError(f"too white: {object()}")))


def hungry() -> Made:
    return Tiny(), _unless_white(lambda: _raise(MemoryError()))


def hungry_once() -> Made:
    """Out of memory for one batch of one process, the first that does not find the file of the variable."""

    def eat(out: dict[str, Any]) -> dict[str, Any]:
        path = Path(os.environ["HUNGRY"])
        if multiprocessing.parent_process() is not None and not path.exists():
            path.touch()
            raise MemoryError("no memory left")
        return out

    return Changed(eat), pixels


def ragged() -> Made:
    return Tiny(), _tensor


def deadly() -> Made:
    return Tiny(), _unless_white(lambda: os._exit(3))


class Letters(nn.Module):
    """Embeds a text by its letters; each is a token."""

    modality = "text"

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(128, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.embedding(x)


def words() -> tuple[nn.Module, Callable[[str], Tensor]]:
    """(16,) codes of the first letters"""
    return Letters(), lambda text: torch.tensor([ord(c) % 128 for c in f"{text:16.16}"])
