"""Compare the durable writing of tokens by the cache's writer with raw files and with peers.

    python -m benchmarks.write [--smoke] [--json FILE]

All contestants write the same rows to the same file system in turns, and wait for the disk (fsync). The bound
is one raw file, written in batches. As many raw files as the cache has, of the same sizes, show the cost of
the number of files. zarr-python and tensorstore write the layout of the cache, a whole shard at a time, which
is fastest for them. The cache's writer and h5py write batches, as a model yields them.
"""

from __future__ import annotations

import functools
import itertools
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import common
from featcache.cache.layout import chunk_rows
from featcache.cache.spec import LayoutSpec
from featcache.files import sync

BOUND = "raw file"
SLOW = 8
"""zarr-python writes one row for every SLOW rows of the others, because all rows would take minutes."""


class Data(NamedTuple):
    """The rows of one shard, which are written repeatedly until there are `rows`."""

    shard: common.Tokens
    rows: int

    def pieces(self, step: int) -> Iterator[tuple[int, common.Tokens]]:
        """Yield (first row, rows) of pieces of at most `step` rows, none across the border of a shard."""
        for first in range(0, self.rows, len(self.shard)):
            here = self.shard[: self.rows - first]
            for start in range(0, len(here), step):
                yield first + start, here[start : start + step]

    @property
    def chunk(self) -> tuple[int, ...]:
        """The shape of the cache's own inner chunks."""
        row = self.shard.shape[1:]
        return chunk_rows(len(self.shard), self.shard[0].nbytes), *row

    @property
    def storage(self) -> LayoutSpec:
        """How the cache is to make its shards."""
        return LayoutSpec(shard_size=str(len(self.shard)))

    @property
    def megabytes(self) -> float:
        """Of all rows."""
        found: float = self.rows * self.shard[0].nbytes / 1e6
        return found


class Case(NamedTuple):
    """Rows of tokens, and the rows in a shard; None: as the cache chooses it."""

    tokens: int
    dim: int
    megabytes: int
    shard: int | None = None

    def data(self) -> Data:
        """Return the rows to write."""
        row = 2 * self.tokens * self.dim
        rows = self.megabytes * 10**6 // row
        shard = self.shard or LayoutSpec().block_rows(row)
        return Data(common.random_tokens(self.tokens, self.dim)(min(rows, shard)), rows)


FULL = (Case(197, 768, 1000), Case(50, 384, 800), Case(50, 384, 120, shard=64))
SMOKE = (Case(197, 768, 80), Case(50, 384, 20, shard=64))


def raw(path: Path, data: Data) -> None:
    """Write only the values, to one file."""
    with open(path, "wb", buffering=0) as file:
        for _, rows in data.pieces(common.AT_ONCE):
            file.write(rows.data)
        os.fsync(file.fileno())


def raw_files(path: Path, data: Data, sizes: Sequence[int]) -> None:
    """Write as many files as the cache has, of the same sizes, and force each to disk."""
    path.mkdir()
    values, step = data.shard.reshape(-1).view(np.uint8), common.AT_ONCE * data.shard[0].nbytes
    for number, size in enumerate(sizes):
        with open(path / str(number), "wb", buffering=0) as file:
            while left := size - file.tell():
                start = file.tell() % len(values)
                file.write(values[start : start + min(step, left)].data)
            os.fsync(file.fileno())


def featcache(path: Path, data: Data) -> None:
    """Write by the cache's writer, with checksums, index and ledger."""
    first = data.shard[:1]  # which it is asked for to learn the shape
    arriving = itertools.chain([first], (rows for _, rows in data.pieces(common.AT_ONCE)))
    common.write_cache(path, {"train": data.rows}, lambda _: next(arriving), data.storage)


def zarr_python(path: Path, data: Data) -> None:
    """Write the same shards and chunks by the reference implementation."""
    import zarr

    array: Any = zarr.create_array(
        path,
        shape=(data.rows, *data.chunk[1:]),
        dtype="float16",
        chunks=data.chunk,
        shards=data.shard.shape,
        compressors=None,
    )
    for start, rows in data.pieces(len(data.shard)):
        array[start : start + len(rows)] = rows
    _sync_tree(path)


def tensorstore(path: Path, data: Data) -> None:
    """Write the same shards and chunks by tensorstore."""
    import tensorstore as ts

    sharding = {"chunk_shape": data.chunk, "codecs": [{"name": "bytes"}]}
    array: Any = ts.open(
        {
            "driver": "zarr3",
            "kvstore": {"driver": "file", "path": str(path)},
            "metadata": {
                "shape": [data.rows, *data.chunk[1:]],
                "data_type": "float16",
                "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": data.shard.shape}},
                "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
            },
            "create": True,
        }
    ).result()
    for start, rows in data.pieces(len(data.shard)):
        array[start : start + len(rows)].write(rows).result()
    _sync_tree(path)


def h5py(path: Path, data: Data) -> None:
    """Write one contiguous dataset."""
    import h5py

    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("tokens", (data.rows, *data.chunk[1:]), "float16")
        for start, rows in data.pieces(common.AT_ONCE):
            dataset[start : start + len(rows)] = rows
    with open(path, "rb") as written:
        os.fsync(written.fileno())


def contestant(write: Callable[[Path, Data], None], path: Path, data: Data) -> Callable[[], float]:
    """Return a function that writes to a new path, removes the files, and returns MB/s."""

    def writing() -> float:
        write(path, data)
        return data.megabytes

    def run() -> float:
        # Otherwise this contestant would wait for data that the previous one has not written back.
        os.sync()
        found = common.rate(writing)()
        _remove(path)
        return found

    return run


def measure(case: Case, folder: Path, rounds: int) -> common.Table:
    """Run all contestants on one case."""
    data, path = case.data(), folder / "written"
    featcache(path, data)
    sizes = [file.stat().st_size for file in sorted(path.rglob("*")) if file.is_file()]
    _remove(path)
    few = data._replace(rows=max(data.rows // SLOW, min(data.rows, len(data.shard))))
    contestants = {
        BOUND: contestant(raw, path, data),
        "raw files, as the cache's": contestant(functools.partial(raw_files, sizes=sizes), path, data),
        "featcache writer": contestant(featcache, path, data),
        "zarr-python (whole shards)": contestant(zarr_python, path, few),
        "tensorstore (whole shards)": contestant(tensorstore, path, data)
        if common.installed("tensorstore")
        else None,
        "h5py (contiguous)": contestant(h5py, path, data) if common.installed("h5py") else None,
    }
    shards = f"{math.ceil(data.rows / len(data.shard))} shards of {data.shard.nbytes / 1e6:.3g} MB"
    said = f"{data.rows} x {case.tokens} x {case.dim} float16 in {shards}, fsync included"
    return common.Table(said, "MB/s", BOUND, common.interleaved(contestants, rounds))


def _sync_tree(top: Path) -> None:
    sync(Path(folder, name) for folder, _, names in os.walk(top) for name in (*names, "."))


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def main() -> None:
    """Print a Markdown table for each case, and write the rows as JSON where asked."""
    args = common.arguments(__doc__).parse_args()
    cases, rounds = (SMOKE, 3) if args.smoke else (FULL, 5)
    with tempfile.TemporaryDirectory(dir=".") as folder:
        tables = [measure(case, Path(folder), rounds) for case in cases]
    common.report(tables, args.json)


if __name__ == "__main__":
    main()
