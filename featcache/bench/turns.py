"""Measure rates in turns, so that other programs on the machine slow all of them equally."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

SECONDS = 2.0
"""Time to measure one group of rates."""


def turns(runs: Mapping[str, Callable[[], int]]) -> dict[str, float]:
    """Measure the rate of each run, per second: the median over its turns.

    A run returns the amount of work it did. Its first turn is a warm-up and does not count.
    """
    for run in runs.values():
        run()
    found: dict[str, list[float]] = {name: [] for name in runs}
    end = time.perf_counter() + SECONDS
    while True:
        for name, run in runs.items():
            start = time.perf_counter()
            done = run()
            found[name].append(done / (time.perf_counter() - start))
        if time.perf_counter() > end:
            return {name: statistics.median(rates) for name, rates in found.items()}
