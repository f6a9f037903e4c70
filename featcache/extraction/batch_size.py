"""How many views at a time: what the device's free memory holds, by a short probe."""

from __future__ import annotations

import torch

from featcache.extraction.forward import Forward
from featcache.sources.base import Source

DEFAULT = 64
MOST = 1024
"""A larger batch computes no faster, and only waits longer for its samples."""
PROBES = (8, 16)
SPARE = 0.8
"""Of the free memory: kernels take workspace, and pieces of memory between tensors are lost."""


def auto_batch(forward: Forward, source: Source) -> int:
    """A power of two that fits beside the model on a CUDA device; 64 on the CPU.

    Raises SourceError when no sample can be read, EncoderError where the model fails.
    """
    if forward.device.type != "cuda":
        return DEFAULT
    small, large = (_peak(forward, source, count) for count in PROBES)
    free, _ = torch.cuda.mem_get_info(forward.device)
    return fitting(free, (large - small) / (PROBES[1] - PROBES[0]))


def fitting(free: int, each: float) -> int:
    """The largest power of two, up to 1024, of which `free` bytes hold `each` bytes with room to spare.

    >>> fitting(80 * 2**30, 50 * 2**20), fitting(2**30, 50 * 2**20), fitting(2**20, 50 * 2**20)
    (1024, 16, 1)
    """
    count = int(SPARE * free / max(each, 1))
    return min(MOST, 1 << max(count, 1).bit_length() - 1)


def _peak(forward: Forward, source: Source, count: int) -> int:
    """Bytes in use at most during one batch of that many."""
    inputs = forward.inputs(source, count)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(forward.device)
    forward(inputs)
    return torch.cuda.max_memory_allocated(forward.device)
