"""Which device to compute on."""

from __future__ import annotations

import torch

from featcache.errors import ConfigError


def resolve(name: str) -> torch.device:
    """`auto` is CUDA where there is one, else the CPU; raises ConfigError for a device that is not there.

    >>> resolve("cpu")
    device(type='cpu')
    """
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
            hint="use --device auto or cpu, or install a CUDA build of torch",
        )
    raise ConfigError("no such device", got=name, expected=", ".join(["auto", *known]))
