"""Warm shuffled reading: the public loader against memory itself and against zarr-python.

    python -m benchmarks.read [--smoke] [--json FILE] [--rows N]

All contestants read the same shuffled batches of rows from the same cache, in turn, several rounds; the
median counts. The bound is `torch.index_select` from a tensor in memory into a reused buffer, on one thread.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
from numpy.typing import NDArray

from benchmarks import common
from featcache.cache.reader import Cache
from featcache.loading.loader import RING, Loader, Stream
from featcache.loading.plan import ReadPlan
from featcache.loading.store import FeatureStore

TOKENS, DIM, BATCH = 197, 768, 256
BOUND = "memory (index_select, one thread)"
Rows = NDArray[np.int64]


def contestants(path: Path, batches: list[Rows]) -> dict[str, Callable[[], float]]:
    """Each reads the batches (zarr-python: a sixteenth of one) and gives samples a second."""
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

    def loader() -> float:
        stream = Stream(ReadPlan(everything, BATCH, seed=0), ("eval",))
        loading = Loader(store, np.zeros(len(everything), np.int64), stream, None, torch.device("cpu"))
        with closing(loading.steps(0, RING + len(batches))) as arriving:
            for _ in range(RING):
                next(arriving)
            start = time.perf_counter()
            for _ in arriving:
                pass
            # The ring was full when the clock started: those batches are not counted.
            return (len(batches) - RING) * BATCH / (time.perf_counter() - start)

    def zarr_python() -> int:
        few = batches[0][:: BATCH // 16]
        zarr_tokens.oindex[few, 0]
        return len(few)

    return {
        BOUND: common.rate(bound),
        "featcache reader (gather)": common.rate(gather),
        "featcache loader (prefetched batches)": loader,
        "zarr-python (oindex)": common.rate(zarr_python),
    }


def main() -> None:
    """Print a Markdown table, and write its rows as JSON where asked."""
    parser = common.arguments(__doc__)
    parser.add_argument("--rows", type=int, help="samples in the cache [default: 8192, smoke: 512]")
    args = parser.parse_args()
    rows = args.rows or (512 if args.smoke else 8192)
    count, rounds = (8, 3) if args.smoke else (32, 7)
    torch.set_num_threads(1)
    plan = ReadPlan(np.arange(rows), BATCH, seed=0)
    with tempfile.TemporaryDirectory(dir=".") as folder:
        path = Path(folder) / "bench.zarr"
        common.write_cache(path, {"train": rows}, common.random_tokens(TOKENS, DIM))
        readers = contestants(path, [plan.batch(step) for step in range(count)])
        rates = common.interleaved(readers, rounds)
    case = f"{rows} x {TOKENS} x {DIM} float16, batches of {BATCH}, warm"
    common.report([common.Table(case, "samples/s", BOUND, rates)], args.json)


if __name__ == "__main__":
    main()
