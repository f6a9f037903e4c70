"""The number of views in a forward pass, from a short probe of the device's free memory."""

from __future__ import annotations

import torch

from featcache.extraction.forward import Forward
from featcache.sources.base import Source

DEFAULT = 64
MOST = 1024
"""A larger batch computes no faster and waits longer for its samples."""
PROBES = (8, 16)
SPARE = 0.8
"""Usable fraction of the free memory: kernels take workspace, and fragmentation loses some."""


def auto_batch(forward: Forward, source: Source) -> int:
    """Return a power of two that fits beside the model on a CUDA device; 64 on the CPU.

    Raises SourceError when no sample can be read, EncoderError when the model raises an error.
    """
    if forward.device.type != "cuda":
        return DEFAULT
    small, large = (_peak(forward, source, count) for count in PROBES)
    free, _ = torch.cuda.mem_get_info(forward.device)
    return fitting(free, (large - small) / (PROBES[1] - PROBES[0]))


def fitting(free: int, each: float) -> int:
    """Return the number of views of `each` bytes that fit into `free` bytes: a power of two, at most 1024.

    >>> fitting(80 * 2**30, 50 * 2**20), fitting(2**30, 50 * 2**20), fitting(2**20, 50 * 2**20)
    (1024, 16, 1)
    """
    count = int(SPARE * free / max(each, 1))
    return min(MOST, 1 << max(count, 1).bit_length() - 1)


def _peak(forward: Forward, source: Source, count: int) -> int:
    """Return the peak bytes in use during a batch of `count` views."""
    inputs = forward.inputs(source, count)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(forward.device)
    forward(inputs)
    return torch.cuda.max_memory_allocated(forward.device)
