"""Compare verification with the disk, and reading with and without checks of whole shards.

    python -m benchmarks.verify [--smoke] [--json FILE]

Verification runs with the page cache dropped, and its bound is reading the same files sequentially with
O_DIRECT. Loading a split to memory, streaming it in shuffled batches, and training on what is streamed run
warm; their bound is the same without checks. The last table opens a split of many rows and checks its small
files, as every use does.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from benchmarks import common
from benchmarks.read import DISK, Case, direct, drop, shards, steps
from benchmarks.train import URATIO, Learner
from featcache.cache.reader import CacheReader
from featcache.cache.storage import Folder
from featcache.cache.verify import verify_cache
from featcache.loading.store import FeatureStore

UNCHECKED, SMALL = "without checks", "reading the small files"
FULL, SMOKE = Case(197, 768, 8192, 60), Case(50, 384, 2048, 8)
TRAINED, TRAINED_SMOKE = Case(65, 128, 8192, 200), Case(65, 128, 512, 5)


def verification(path: Path) -> dict[str, Callable[[], float] | None]:
    """Return the ways to read all shards from disk; each returns GB/s."""
    total = sum(file.stat().st_size for file in shards(path))

    def dropped(run: Callable[[], float]) -> Callable[[], float]:
        def turn() -> float:
            drop(path)
            return common.rate(run)()

        return turn

    def verify() -> float:
        found = verify_cache(Folder(path))
        assert found.whole
        return found.nbytes / 1e9

    return {DISK: dropped(lambda: direct(path, total) / 1e9), "featcache verify": dropped(verify)}


def loading(path: Path, case: Case) -> dict[str, Callable[[], float] | None]:
    """Return loading to memory, with and without checks; each returns rows/s."""

    def load(checked: bool) -> float:
        store = FeatureStore.open(CacheReader.open(path), "train", checked=checked)
        store.load(torch.device("cpu"))
        return float(case.rows)

    return {UNCHECKED: common.rate(lambda: load(False)), "with checks": common.rate(lambda: load(True))}


def streaming(path: Path, case: Case) -> dict[str, Callable[[], float] | None]:
    """Return batches from disk, with and without checks, over four epochs; each returns rows/s."""
    count = 4 * case.rows // 256

    def stream(checked: bool) -> float:
        store = FeatureStore.open(CacheReader.open(path), "train", checked=checked)
        return float(256 * sum(1 for _ in steps(store, case, 0, count)))

    return {UNCHECKED: common.rate(lambda: stream(False)), "with checks": common.rate(lambda: stream(True))}


def training(path: Path, case: Case) -> dict[str, Callable[[], float] | None]:
    """Return trainings of some steps on what is streamed, with and without checks; each returns steps/s."""
    cpu = torch.device("cpu")
    learner = Learner(case.dim, 32, case.batches, cpu)

    def train(checked: bool) -> float:
        store = FeatureStore.open(CacheReader.open(path), "train", checked=checked)
        taken = learner.run(common.both_streams(store, 32, URATIO, cpu))
        store.finish_checks()
        return float(taken)

    return {UNCHECKED: common.rate(lambda: train(False)), "with checks": common.rate(lambda: train(True))}


def opening(path: Path, rows: int) -> dict[str, Callable[[], float] | None]:
    """Return opening a split of many rows with all its checks; each returns openings/s."""

    def small() -> float:
        for file in shards(path):
            if file.suffix == ".json" or "status" in file.parts or "sample_id" in file.parts:
                file.read_bytes()
        return 1.0

    def opened() -> float:
        split = CacheReader.open(path).split("train")
        split.check()
        assert split.status.all()
        return float(len(split.labels) == rows)

    return {SMALL: common.rate(small), "open and check": common.rate(opened)}


def measured(case: Case, trained: Case, many: int, rounds: int) -> Iterator[common.Table]:
    """Make all tables, and remove their files."""
    with tempfile.TemporaryDirectory(dir=".") as name:
        path = Path(name) / "bench.zarr"
        common.write_cache(path, {"train": case.rows}, common.random_tokens(case.tokens, case.dim))
        for title, unit, bound, contestants in (
            ("verify, cold", "GB/s", DISK, verification(path)),
            ("loading to memory, warm", "rows/s", UNCHECKED, loading(path, case)),
            ("streaming four epochs, warm", "rows/s", UNCHECKED, streaming(path, case)),
        ):
            found = common.interleaved(contestants, rounds)
            yield common.Table(f"{title}: {case.rows} x {case.tokens} x {case.dim}", unit, bound, found)
    with tempfile.TemporaryDirectory(dir=".") as name:
        path = Path(name) / "trained.zarr"
        common.write_cache(path, {"train": trained.rows}, common.random_tokens(trained.tokens, trained.dim))
        found = common.interleaved(training(path, trained), rounds)
        title = f"training, {trained.batches} steps: {trained.rows} x {trained.tokens} x {trained.dim}"
        yield common.Table(title, "steps/s", UNCHECKED, found)
    with tempfile.TemporaryDirectory(dir=".") as name:
        path = Path(name) / "many.zarr"
        common.write_cache(path, {"train": many}, common.random_tokens(1, 8))
        found = common.interleaved(opening(path, many), rounds)
        yield common.Table(f"opening, {many} rows", "openings/s", SMALL, found)


def main() -> None:
    """Print the tables, and write their rows as JSON where asked."""
    args = common.arguments(__doc__).parse_args()
    torch.set_num_threads(1)
    sizes = (SMOKE, TRAINED_SMOKE, 20_000, 2) if args.smoke else (FULL, TRAINED, 1_000_000, 5)
    common.report(measured(*sizes), args.json)


if __name__ == "__main__":
    main()
