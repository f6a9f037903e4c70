"""Measure time, peak memory and bytes for growing data sets: they should be linear, constant and linear.

    python -m benchmarks.scale [--smoke] [--json FILE]

Random images of 32 x 32 pass through a linear embedding of their patches. It gives 64 tokens of 128, so that
reading and writing cost more than the model. One epoch of twinturbo streams them from the cache. Every part
runs in its own process. Linux reports its peak resident memory, with and without the pages of mapped files
(samples and shards), which the kernel can reclaim. Times are those of the summaries, without imports. The
bound is the smallest size.
"""

from __future__ import annotations

import functools
import multiprocessing
import tempfile
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from benchmarks import common

FULL, SMOKE = (1_000, 10_000, 100_000), (500, 2_000)
TESTED = 200
ROWS_A_STEP = 96
TIME, PEAK, OWN, SIZE = "ms/sample", "MB at the peak", "MB at the peak, files apart", "kB/sample"
UNITS = {TIME: "ms", PEAK: "MB", OWN: "MB", SIZE: "kB"}
PAPER = {"ImageNet-1k": 1_281_167, "a billion samples": 10**9}
T = TypeVar("T")
Measured = dict[str, float]


def embedding() -> tuple[Any, Any]:
    """Make an encoder for `featcache extract`: 4 x 4 patches, projected at random to 128 dimensions."""
    from torch import nn
    from torchvision.transforms import functional

    return nn.Sequential(nn.PixelUnshuffle(4), nn.Conv2d(48, 128, 1)), functional.to_tensor


def write_samples(path: Path, samples: int) -> None:
    """Write images and labels of two splits, uncompressed, so that featcache can map them."""
    rng = np.random.default_rng(samples)
    arrays: dict[str, Any] = {}
    for name, rows in (("train", samples), ("test", TESTED)):
        arrays[f"x_{name}"] = rng.integers(0, 256, (rows, 32, 32, 3), dtype=np.uint8)
        arrays[f"y_{name}"] = np.arange(rows) % len(common.CLASS_NAMES)
    np.savez(path, **arrays)


def extracting(folder: Path, samples: int) -> Measured:
    """Extract everything into a cache, in this process."""
    from featcache.extraction.options import ExtractOptions
    from featcache.stages.extract import run_extraction

    places = folder / "samples.npz", f"python:{__file__}:embedding", folder / "cache.zarr"
    done, own = watched(lambda: run_extraction(*places, ExtractOptions(num_workers=0)))
    summaries, rows = done.values(), samples + TESTED
    return {
        TIME: 1000 * sum(summary.seconds for summary in summaries) / rows,
        PEAK: status("VmHWM"),
        OWN: own,
        SIZE: sum(summary.nbytes for summary in summaries) / 1000 / rows,
    }


def training(folder: Path, samples: int) -> Measured:
    """Train one epoch over the unlabelled rows, streamed from disk."""
    from featcache.stages.train import run_training
    from featcache.training.request import TrainRequest

    options = {"optim": {"steps": max(1, samples // ROWS_A_STEP)}, "data": {"residency": "stream"}}
    request = TrainRequest(folder / "cache.zarr", "twinturbo", labels_per_class=4, options=options)
    result, own = watched(lambda: run_training(request, folder / "run"))
    return {TIME: 1000 * result["seconds"] / samples, PEAK: status("VmHWM"), OWN: own}


PARTS = {"extract": extracting, "train, streaming, one epoch": training}


def status(field: str) -> float:
    """Read a field of /proc/self/status, in MB."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[field].split()[0]) * 1024 / 1e6


def watched(run: Callable[[], T]) -> tuple[T, float]:
    """Return the result of `run` and its peak memory without mapped files, sampled at 100 Hz."""
    seen, over = [0.0], threading.Event()

    def watch() -> None:
        while not over.wait(0.01):
            seen[0] = max(seen[0], status("RssAnon"))

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    try:
        return run(), seen[0]
    finally:
        over.set()
        watching.join()


def apart(run: Callable[[Path, int], Measured], folder: Path, samples: int) -> Measured:
    """Run in a new process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(run, folder, samples).result()


def grown(samples: int) -> dict[str, Measured]:
    """Measure all parts at one size, one after the other."""
    with tempfile.TemporaryDirectory(dir=".") as name:
        write_samples(Path(name) / "samples.npz", samples)
        return {part: apart(run, Path(name).absolute(), samples) for part, run in PARTS.items()}


def tables(found: Mapping[str, list[dict[str, Measured]]]) -> list[common.Table]:
    """Make a table for every part and quantity, with the sizes as contestants."""
    bound, rounds = next(iter(found.items()))
    return [
        common.Table(
            f"{part}, {figure}",
            UNITS[figure],
            bound,
            {size: [measured[part][figure] for measured in every] for size, every in found.items()},
        )
        for part, figures in rounds[0].items()
        for figure in figures
    ]


def on_paper(found: list[common.Table]) -> list[str]:
    """Extrapolate to other sizes at the rate of the largest one."""
    figures = {table.case: table.rows()[-1]["value"] for table in found}
    seconds, size = figures[f"extract, {TIME}"] / 1000, figures[f"extract, {SIZE}"] / 1e6
    epoch = figures[f"train, streaming, one epoch, {TIME}"] / 1000
    return [
        f"On paper, {name}: {seconds * count / 3600:,.3g} h to extract without a model's own time, "
        f"{size * count:,.3g} GB, {epoch * count / 3600:,.3g} h an epoch."
        for name, count in PAPER.items()
    ]


def main() -> None:
    """Print a Markdown table for every figure, and write the rows as JSON where asked."""
    args = common.arguments(__doc__).parse_args()
    sizes, rounds = (SMOKE, 1) if args.smoke else (FULL, 2)
    runs = {f"{size:,} samples": functools.partial(grown, size) for size in sizes}
    # Every process starts cold: there is nothing to warm up.
    found = tables(common.interleaved(runs, rounds, warm_up=0))
    common.report(found, args.json, on_paper(found))


if __name__ == "__main__":
    main()
