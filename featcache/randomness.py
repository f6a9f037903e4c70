"""Seed torch's global generator for libraries that know no other one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_turn = threading.RLock()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Torch's global CPU generator, seeded inside the block and as before after it.

    For libraries that know no other generator. Threads take turns, as they share that generator.
    """
    with _turn, torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
