"""Measure what a Dask cluster costs: an extraction on two workers against one process, and memory for tasks.

    python -m benchmarks.cluster [--smoke] [--json FILE]

The first two tables extract random images with the bundled model: a few, which shows what the start costs,
and then many more, in shards of the default size. The bound is one process that uses all cores. The cluster
has two workers that share them. The last table runs tasks that do nothing. The scheduler is in this process;
its memory after the first tasks is the bound.
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
ONE, TWO = "one process", "two workers"
FEW, MANY, SMOKE_MANY = 64, 16_384, 512
TASKS, SMOKE_TASKS = (1_000, 10_000, 100_000), (100, 1_000)


def write_samples(path: Path, rows: int) -> None:
    """Write images of 32 x 32, uncompressed."""
    images = np.random.default_rng(0).integers(0, 256, (rows, 32, 32, 3), dtype=np.uint8)
    np.savez(path, x_train=images)


def extracting(folder: Path, cluster: ClusterOptions, many: int) -> Callable[[], tuple[float, float]]:
    """Return a function that returns the seconds for a few images, and those for many."""

    def seconds(rows: int) -> float:
        start = time.perf_counter()
        options = ExtractOptions(num_workers=0, limit=rows)
        run_extraction(folder / "samples.npz", MODEL, folder / "c.zarr", options, cluster=cluster)
        taken = time.perf_counter() - start
        shutil.rmtree(folder / "c.zarr")
        return taken

    def run() -> tuple[float, float]:
        return seconds(FEW), seconds(many)

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
    many, rounds = (SMOKE_MANY, 1) if args.smoke else (MANY, 3)
    with tempfile.TemporaryDirectory(dir=".") as name:
        folder = Path(name)
        write_samples(folder / "samples.npz", many)
        runs = {ONE: HERE, TWO: ClusterOptions(workers=2)}
        found = common.interleaved(
            {name: extracting(folder, cluster, many) for name, cluster in runs.items()}, rounds, warm_up=0
        )
    few, all_of_them = (
        {name: [measured[which] for measured in rounds] for name, rounds in found.items()} for which in (0, 1)
    )
    spent = memory(SMOKE_TASKS if args.smoke else TASKS)
    common.report(
        [
            common.Table(f"extract {FEW} images", "s", ONE, few),
            common.Table(f"extract {many:,} images", "s", ONE, all_of_them),
            common.Table("memory of the scheduler", "MB", next(iter(spent)), spent),
        ],
        args.json,
    )


if __name__ == "__main__":
    main()
