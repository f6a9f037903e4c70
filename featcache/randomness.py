"""Seed torch's global generator, for libraries that accept no other one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_turn = threading.RLock()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's global CPU generator inside the block, and restore its state afterwards.

    Use it for libraries that accept no other generator. Threads run the block in turns, because they share
    that generator.
    """
    with _turn, torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
