"""Measure what a Dask cluster costs: an extraction on two workers against one process, and memory for tasks.

    python -m benchmarks.cluster [--smoke] [--json FILE]

The first table extracts random images with the bundled model into shards of the default size. The bound is
one process that uses all cores. The cluster has two workers that share them. It is timed with and without
its start, which does not depend on the size. The second table runs tasks that do nothing. The scheduler is
in this process; its memory after the first tasks is the bound.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks import common
from featcache.cluster import HERE, ClusterOptions, connected
from featcache.extraction.options import ExtractOptions
from featcache.stages.extract import run_extraction

MODEL = "open_clip:glyph-clip"
ONE, TWO, TWO_STARTED = "one process", "two workers", "two workers, without their start"
ROWS, SMOKE_ROWS = 16_384, 512
TASKS, SMOKE_TASKS = (1_000, 10_000, 100_000), (100, 1_000)


def write_samples(path: Path, rows: int) -> None:
    """Write images of 32 x 32, uncompressed."""
    images = np.random.default_rng(0).integers(0, 256, (rows, 32, 32, 3), dtype=np.uint8)
    np.savez(path, x_train=images)


def extracting(folder: Path, cluster: ClusterOptions) -> Callable[[], dict[str, float]]:
    """Return a function that extracts everything, and returns the seconds in all and without the start."""

    def run() -> dict[str, float]:
        out, begun = folder / "c.zarr", [0.0]
        start = time.perf_counter()

        def say(line: object) -> None:
            begun[0] = time.perf_counter() - start

        options = ExtractOptions(num_workers=0)
        summaries = run_extraction(folder / "samples.npz", MODEL, out, options, cluster=cluster, say=say)
        seconds = time.perf_counter() - start
        shutil.rmtree(out)
        here = sum(summary.seconds for summary in summaries.values())
        return {"in all": seconds, "blocks": here if cluster is HERE else seconds - begun[0]}

    return run


def resident() -> float:
    """Return the memory of this process in MB."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["RssAnon"].split()[0]) * 1024 / 1e6


def nothing(task: int) -> int:
    """Return the number of a task."""
    return task


def memory(counts: tuple[int, ...]) -> dict[str, list[float]]:
    """Return the memory of this process, which has the scheduler, after numbers of tasks in all."""
    found: dict[str, list[float]] = {}
    waiting = iter(range(counts[-1]))
    with connected(ClusterOptions(workers=2), "cpu") as cluster:
        for done, _ in enumerate(cluster.run(nothing, lambda workers: next(waiting, None)), start=1):
            if done in counts:
                found[f"{done:,} tasks"] = [resident()]
    return found


def main() -> None:
    """Print two Markdown tables, and write their rows as JSON where asked."""
    args = common.arguments(__doc__).parse_args()
    rows, rounds = (SMOKE_ROWS, 1) if args.smoke else (ROWS, 3)
    with tempfile.TemporaryDirectory(dir=".") as name:
        folder = Path(name)
        write_samples(folder / "samples.npz", rows)
        runs = {ONE: extracting(folder, HERE), TWO: extracting(folder, ClusterOptions(workers=2))}
        found = common.interleaved(runs, rounds, warm_up=0)
    seconds = {
        ONE: [each["blocks"] for each in found[ONE]],
        TWO_STARTED: [each["blocks"] for each in found[TWO]],
        TWO: [each["in all"] for each in found[TWO]],
    }
    spent = memory(SMOKE_TASKS if args.smoke else TASKS)
    common.report(
        [
            common.Table(f"extract {rows:,} images", "s", ONE, seconds),
            common.Table("memory of the scheduler", "MB", next(iter(spent)), spent),
        ],
        args.json,
    )


if __name__ == "__main__":
    main()
