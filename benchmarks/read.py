"""Compare shuffled reading, warm and cold, with memory, the disk and eight peers.

    python -m benchmarks.read [--smoke] [--json FILE]

All contestants read the same uniformly random rows in batches, in turns; the result is the median over
several rounds. For warm reading, the bound is `torch.index_select` from a tensor in memory into a reused
buffer, on one thread. For cold reading, the page cache is dropped before every turn. Its bound is the rate of
reading the same files sequentially with O_DIRECT. Install the peers with `pip install 'featcache[bench]'`.
"""

from __future__ import annotations

import itertools
import mmap
import os
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from benchmarks import common
from benchmarks.peers import PEERS, Rows, Stored
from featcache.batch import Batch
from featcache.cache.array import ShardedArray
from featcache.cache.reader import CacheReader
from featcache.loading.loader import RING, Loader, Stream
from featcache.loading.plan import ReadPlan
from featcache.loading.store import FeatureStore

BATCH = 256
MEMORY, DISK = "memory (index_select, one thread)", "disk (sequential, O_DIRECT)"
GATHER, LOADER = "featcache reader (gather)", "featcache loader (prefetched batches)"
DIRECT_THREADS, DIRECT_BYTES = 8, 1 << 22
Contestants = dict[str, Callable[[], float] | None]


class Case(NamedTuple):
    """A size of sample, and how much is read: what the peers hold beside each other fits in memory."""

    tokens: int
    dim: int
    rows: int
    batches: int

    def __str__(self) -> str:
        return f"{self.rows} x {self.tokens} x {self.dim} float16, batches of {BATCH}"


FULL = (Case(50, 384, 32_768, 120), Case(197, 768, 4096, 60), Case(257, 1024, 2304, 40))
SMOKE = (Case(50, 384, 2048, 8),)


def warm(case: Case, path: Path, folder: Path) -> Contestants:
    """Return all ways to read the batches from memory and from the page cache; each returns samples/s."""
    plan = ReadPlan(np.arange(case.rows), BATCH, seed=0)
    batches = [plan.batch(step) for step in range(case.batches)]
    array = CacheReader.open(path).split("train").array("tokens")
    memory = torch.from_numpy(array.gather(np.arange(case.rows), 0))
    buffer = torch.empty((BATCH, case.tokens, case.dim), dtype=torch.float16)
    store = FeatureStore.open(CacheReader.open(path), "train")

    def every(read: Callable[[Rows], object], part: int = BATCH) -> Callable[[], float]:
        def run() -> float:
            # A peer that reads a part of a batch reads one.
            for rows in batches if part == BATCH else batches[:1]:
                read(rows[:: BATCH // part])
            return float(len(batches) * BATCH if part == BATCH else part)

        return common.rate(run)

    def loader() -> float:
        with closing(steps(store, case, 0, RING + case.batches)) as arriving:
            for _ in range(RING):
                next(arriving)
            start = time.perf_counter()
            # The ring was full when the clock started: those batches are not counted.
            return (sum(1 for _ in arriving) - RING) * BATCH / (time.perf_counter() - start)

    stored = Stored(folder, path / "train" / "tokens", memory.numpy(), buffer.numpy())
    readers: Contestants = {
        MEMORY: every(lambda rows: torch.index_select(memory, 0, torch.from_numpy(rows), out=buffer)),
        GATHER: every(lambda rows: array.gather(rows, 0, buffer.numpy())),
        LOADER: loader,
    }
    for name, (module, part, prepare) in PEERS.items():
        said = name if part == BATCH else f"{name}, {part} rows"
        readers[said] = every(prepare(stored), part) if common.installed(module) else None
    return readers


def steps(store: FeatureStore, case: Case, seed: int, count: int) -> Generator[Batch]:
    """Make the public loader over all rows of one view."""
    stream = Stream(store, ReadPlan(np.arange(case.rows), BATCH, seed), ("eval",))
    labels = np.zeros(case.rows, np.int64)
    return Loader(stream, labels, device=torch.device("cpu")).steps(0, count)


def cold(case: Case, path: Path) -> Contestants:
    """Return the ways to read from disk: the disk itself, and featcache; each returns samples/s."""
    tokens = path / "train" / "tokens"
    turns = itertools.count()
    buffer = np.empty((BATCH, case.tokens, case.dim), np.float16)
    buffer.fill(0)
    row_bytes = buffer[0].nbytes
    count = min(RING + case.batches, case.rows // BATCH)  # no row twice

    def dropped(run: Callable[[int], float]) -> Callable[[], float]:
        def turn() -> float:
            drop(path)
            return common.rate(lambda: run(next(turns)))()

        return turn

    def gather(turn: int) -> float:
        array = ShardedArray.open(tokens)
        plan = ReadPlan(np.arange(case.rows), BATCH, seed=turn)
        for step in range(count):
            array.gather(plan.batch(step), 0, buffer)
        return float(count * BATCH)

    def loader(turn: int) -> float:
        store = FeatureStore.open(CacheReader.open(path), "train")
        return float(sum(1 for _ in steps(store, case, turn, count)) * BATCH)

    return {
        DISK: dropped(lambda _: direct(tokens, count * BATCH * row_bytes) / row_bytes),
        GATHER: dropped(gather),
        LOADER: dropped(loader),
    }


def drop(path: Path) -> None:
    """Take every file of the cache out of memory; nobody may have mapped it, as mapped pages stay."""
    for file in shards(path):
        with open(file, "rb") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def direct(path: Path, limit: int) -> int:
    """Read up to `limit` bytes of the files front to back past the page cache; gives how many there were."""
    buffers = threading.local()

    def read(block: tuple[int, int]) -> int:
        if not hasattr(buffers, "own"):
            buffers.own = mmap.mmap(-1, DIRECT_BYTES)  # aligned, as O_DIRECT wants it
        return os.preadv(block[0], [buffers.own], block[1])

    files = [os.open(file, os.O_RDONLY | os.O_DIRECT) for file in shards(path)]
    try:
        ends = [(file, os.fstat(file).st_size // DIRECT_BYTES * DIRECT_BYTES) for file in files]
        blocks = ((file, at) for file, end in ends for at in range(0, end, DIRECT_BYTES))
        with ThreadPoolExecutor(DIRECT_THREADS) as pool:
            return sum(pool.map(read, itertools.islice(blocks, limit // DIRECT_BYTES)))
    finally:
        for file in files:
            os.close(file)


def shards(path: Path) -> list[Path]:
    """List the files under a folder."""
    return sorted(file for file in path.rglob("*") if file.is_file())


def measured(case: Case, rounds: int) -> Iterator[common.Table]:
    """Make both tables of one case, and remove its files."""
    with tempfile.TemporaryDirectory(dir=".") as name:
        folder = Path(name)
        path = folder / "bench.zarr"
        common.write_cache(path, {"train": case.rows}, common.random_tokens(case.tokens, case.dim))
        found = common.interleaved(warm(case, path, folder), rounds)
        yield common.Table(f"{case}, warm", "samples/s", MEMORY, found)
        found = common.interleaved(cold(case, path), rounds, warm_up=0)
        yield common.Table(f"{case}, cold", "samples/s", DISK, found)


def main() -> None:
    """Print two Markdown tables a case, and write their rows as JSON where asked."""
    args = common.arguments(__doc__).parse_args()
    torch.set_num_threads(1)
    cases, rounds = (SMOKE, 2) if args.smoke else (FULL, 7)
    tables = [table for case in cases for table in measured(case, rounds)]
    missing = sorted({peer.module for peer in PEERS.values() if not common.installed(peer.module)})
    notes = [f"Not installed: {', '.join(missing)}; pip install 'featcache[bench]'"] if missing else []
    common.report(tables, args.json, notes)


if __name__ == "__main__":
    main()
