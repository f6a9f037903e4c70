"""Compare rates in turns, so that other programs on the machine slow all of them down alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

SECONDS = 2.0
"""For each group of rates that are compared with each other."""


def turns(runs: Mapping[str, Callable[[], int]]) -> dict[str, float]:
    """Measure what each run does in a second: the median of its turns, taken one after the other.

    A run returns how much it did. Each has one turn to warm up, and one at least that counts.
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
