"""Warm shuffled reading: the public loader against memory itself and against zarr-python.

    python -m benchmarks.read [--smoke] [--json FILE] [--rows N]

All contestants read the same shuffled batches of rows from the same cache, in turn, several rounds; the
median counts. The bound is `torch.index_select` from a tensor in memory into a reused buffer, on one thread.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
from numpy.typing import NDArray

from featcache.cache.reader import Cache
from featcache.cache.spec import CacheSpec, Shapes, SplitSpec, TokenArray
from featcache.cache.writer import CacheWriter
from featcache.loading.loader import RING, Loader, Stream
from featcache.loading.plan import ReadPlan
from featcache.loading.store import FeatureStore

TOKENS, DIM, BATCH = 197, 768, 256
BOUND = "memory (index_select, one thread)"
Rows = NDArray[np.int64]
Reader = Callable[[], tuple[int, float]]


def write_cache(path: Path, rows: int) -> None:
    """A cache of random float16 tokens, written by the real writer."""
    rng = np.random.default_rng(0)
    spec = CacheSpec(encoder={"name": "benchmark"}, layers=(-1,), tokens="all")
    shapes = Shapes(layers=(TokenArray(layer=-1, tokens=TOKENS, dim=DIM),), pooled=DIM)
    ids = [str(row) for row in range(rows)]
    with CacheWriter(path, spec) as writer:
        split = writer.split(
            "train", SplitSpec(source="random", rows=rows), ids, np.zeros(rows, np.int64), shapes
        )
        for unit in split.missing():
            with split.begin(unit) as out:
                for start in range(unit.start, unit.stop, 64):
                    count = min(64, unit.stop - start)
                    tokens = rng.standard_normal((count, TOKENS, DIM), np.float32).astype(np.float16)
                    out.append({-1: tokens}, tokens[:, 0])
                out.commit()


def contestants(path: Path, batches: list[Rows]) -> dict[str, Reader]:
    """Each reads the batches (zarr-python: a sixteenth of one) and gives rows and seconds."""
    array = Cache.open(path).split("train").array("tokens")
    everything = np.arange(array.shape[0])
    memory = torch.from_numpy(array.gather(everything, 0, None))
    buffer = torch.empty((BATCH, TOKENS, DIM), dtype=torch.float16)
    store = FeatureStore.open(Cache.open(path), "train")
    zarr_tokens: Any = zarr.open_group(path / "train", mode="r")["tokens"]

    def bound() -> int:
        for rows in batches:
            torch.index_select(memory, 0, torch.from_numpy(rows), out=buffer)
        return len(batches) * BATCH

    def gather() -> int:
        for rows in batches:
            array.gather(rows, 0, buffer.numpy())
        return len(batches) * BATCH

    def loader() -> tuple[int, float]:
        stream = Stream(ReadPlan(everything, BATCH, seed=0), ("eval",))
        loading = Loader(store, np.zeros(len(everything), np.int64), stream, None, torch.device("cpu"))
        with closing(loading.steps(0, RING + len(batches))) as arriving:
            for _ in range(RING):
                next(arriving)
            start = time.perf_counter()
            for _ in arriving:
                pass
            # The ring was full when the clock started: those batches are not counted.
            return (len(batches) - RING) * BATCH, time.perf_counter() - start

    def zarr_python() -> int:
        few = batches[0][:: BATCH // 16]
        zarr_tokens.oindex[few, 0]
        return len(few)

    return {
        BOUND: timed(bound),
        "featcache reader (gather)": timed(gather),
        "featcache loader (prefetched batches)": loader,
        "zarr-python (oindex)": timed(zarr_python),
    }


def timed(read: Callable[[], int]) -> Reader:
    """Rows and seconds of a function that gives rows."""

    def run() -> tuple[int, float]:
        start = time.perf_counter()
        rows = read()
        return rows, time.perf_counter() - start

    return run


def measure(readers: dict[str, Reader], rounds: int) -> dict[str, list[float]]:
    """Samples a second of every contestant in every round, one after the other; the first round warms up."""
    rates: dict[str, list[float]] = {name: [] for name in readers}
    for number in range(rounds + 1):
        for name, read in readers.items():
            rows, seconds = read()
            if number:
                rates[name].append(rows / seconds)
    return rates


def shuffled(rows: int, count: int) -> Iterator[Rows]:
    """`count` batches of the plan that the loader follows."""
    plan = ReadPlan(np.arange(rows), BATCH, seed=0)
    return (plan.batch(step) for step in range(count))


def main() -> None:
    """Print a Markdown table, and write its rows as JSON where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--smoke", action="store_true", help="a small, short version")
    parser.add_argument("--json", type=Path, help="also write the rows there")
    parser.add_argument("--rows", type=int, help="samples in the cache [default: 8192, smoke: 512]")
    args = parser.parse_args()
    rows = args.rows or (512 if args.smoke else 8192)
    count, rounds = (8, 3) if args.smoke else (32, 7)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=".") as folder:
        write_cache(Path(folder) / "bench.zarr", rows)
        readers = contestants(Path(folder) / "bench.zarr", list(shuffled(rows, count)))
        rates = measure(readers, rounds)
    case = f"{rows} x {TOKENS} x {DIM} float16, batches of {BATCH}, warm"
    limit = statistics.median(rates[BOUND])
    table = [
        {
            "contestant": name,
            "case": case,
            "value": round(statistics.median(values), 1),
            "unit": "samples/s",
            "ratio": round(statistics.median(values) / limit, 4),
        }
        for name, values in rates.items()
    ]
    print(f"{case}; {platform.machine()}, torch {torch.__version__}, median of {rounds} rounds\n")
    print("| contestant | samples/s | of memory |\n| --- | --- | --- |")
    for row in table:
        print(f"| {row['contestant']} | {row['value']:,.0f} | {row['ratio']:.3f} |")
    if args.json:
        args.json.write_text(json.dumps(table, indent=2) + "\n")


if __name__ == "__main__":
    main()
