"""Choose the device to compute on."""

from __future__ import annotations

import os

import torch

from featcache.errors import ConfigError, option


def resolve(name: str | torch.device) -> torch.device:
    """Return a device by name; `auto` is CUDA if it is available, else the CPU.

    Raises ConfigError if there is no such device.

    >>> resolve("cpu")
    device(type='cpu')
    """
    name = str(name)
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    known = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    known += [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    if name in known:
        return torch.device(name)
    if name.startswith("cuda") and len(known) == 1:
        raise ConfigError(
            "no CUDA device is visible",
            got=name,
            hint=f"use {option('device', 'auto')} or {option('device', 'cpu')}, or install torch with CUDA",
        )
    raise ConfigError("no such device", got=name, expected=", ".join(["auto", *known]))


def visible_gpus() -> list[str]:
    """Return the CUDA devices that this process sees, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return [str(index) for index in range(torch.cuda.device_count())]
    return [name.strip() for name in named.split(",") if name.strip()][: torch.cuda.device_count()]
