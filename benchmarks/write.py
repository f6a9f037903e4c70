"""Writing tokens until they are safe on disk: the cache's writer against a raw file and against its peers.

    python -m benchmarks.write [--smoke] [--json FILE]

Everyone writes the same rows and then waits for the disk (fsync), into the same file system, in turn. The
bound is one raw file, batch by batch. zarr-python and tensorstore write the cache's own layout a whole shard
at a time, which is when they are fastest; the cache's writer and h5py take batches, as a model gives them.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import common
from featcache.cache.files import sync_tree
from featcache.cache.spec import StorageSpec

TOKENS, DIM = 197, 768
BOUND = "raw file"
SHARD = StorageSpec().block_rows(2 * TOKENS * DIM)


class Data(NamedTuple):
    """One shard's worth of rows, written over and over until there are `rows`."""

    shard: common.Tokens
    rows: int

    def pieces(self, step: int) -> Iterator[tuple[int, common.Tokens]]:
        """(first row, rows) of the next piece of at most `step` rows, none across a shard's border."""
        for first in range(0, self.rows, SHARD):
            here = self.shard[: self.rows - first]
            for start in range(0, len(here), step):
                yield first + start, here[start : start + step]


def raw(path: Path, data: Data) -> None:
    """A file, and nothing but the values in it."""
    with open(path, "wb", buffering=0) as file:
        for _, rows in data.pieces(common.AT_ONCE):
            file.write(rows.data)
        os.fsync(file.fileno())


def featcache(path: Path, data: Data) -> None:
    """The cache's writer: checksums, index, ledger and all."""
    common.write_cache(path, {"train": data.rows}, lambda count: data.shard[:count])


def zarr_python(path: Path, data: Data) -> None:
    """The same shards and chunks by the reference implementation."""
    import zarr

    array: Any = zarr.create_array(
        path,
        shape=(data.rows, TOKENS, DIM),
        dtype="float16",
        chunks=(1, TOKENS, DIM),
        shards=(SHARD, TOKENS, DIM),
        compressors=None,
    )
    for start, rows in data.pieces(SHARD):
        array[start : start + len(rows)] = rows
    sync_tree(path)


def tensorstore(path: Path, data: Data) -> None:
    """The same shards and chunks by tensorstore."""
    import tensorstore as ts

    sharding = {"chunk_shape": [1, TOKENS, DIM], "codecs": [{"name": "bytes"}]}
    array: Any = ts.open(
        {
            "driver": "zarr3",
            "kvstore": {"driver": "file", "path": str(path)},
            "metadata": {
                "shape": [data.rows, TOKENS, DIM],
                "data_type": "float16",
                "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [SHARD, TOKENS, DIM]}},
                "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
            },
            "create": True,
        }
    ).result()
    for start, rows in data.pieces(SHARD):
        array[start : start + len(rows)].write(rows).result()
    sync_tree(path)


def h5py(path: Path, data: Data) -> None:
    """One contiguous dataset."""
    import h5py

    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("tokens", (data.rows, TOKENS, DIM), "float16")
        for start, rows in data.pieces(common.AT_ONCE):
            dataset[start : start + len(rows)] = rows
    with open(path, "rb") as written:
        os.fsync(written.fileno())


def contestant(write: Callable[[Path, Data], None], path: Path, data: Data) -> Callable[[], float]:
    """Writes to a place where nothing is, and gives megabytes a second."""
    megabytes: float = data.rows * data.shard[0].nbytes / 1e6

    def writing() -> float:
        write(path, data)
        return megabytes

    def run() -> float:
        if path.exists():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        # What is still on its way to disk from the one before would be waited for here.
        os.sync()
        return common.rate(writing)()

    return run


def main() -> None:
    """Print a Markdown table, and write its rows as JSON where asked."""
    args = common.arguments(__doc__).parse_args()
    rows, rounds = (256, 3) if args.smoke else (5 * SHARD, 7)
    data = Data(common.random_tokens(TOKENS, DIM)(min(rows, SHARD)), rows)
    writers = {
        BOUND: raw,
        "featcache writer": featcache,
        "zarr-python (whole shards)": zarr_python,
        "tensorstore (whole shards)": tensorstore if common.installed("tensorstore") else None,
        "h5py (contiguous)": h5py if common.installed("h5py") else None,
    }
    with tempfile.TemporaryDirectory(dir=".") as folder:
        contestants = {
            name: write and contestant(write, Path(folder) / str(number), data)
            for number, (name, write) in enumerate(writers.items())
        }
        rates = common.interleaved(contestants, rounds)
    case = (
        f"{rows} x {TOKENS} x {DIM} float16, {data.rows * data.shard[0].nbytes / 1e6:,.0f} MB, fsync included"
    )
    common.report([common.Table(case, "MB/s", BOUND, rates)], args.json)


if __name__ == "__main__":
    main()
