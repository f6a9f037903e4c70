"""Peers of `benchmarks.read`: other ways to store rows on disk and read them.

Each peer reads as its documentation recommends, in the fastest way that we know. zarr-python, zarrs and
tensorstore read featcache's own files. The others first write the same rows in their own format.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import Tokens

Rows = NDArray[np.int64]
Read = Callable[[Rows], object]
SHARD_BYTES = 64_000_000


class Stored(NamedTuple):
    """The rows of one case."""

    folder: Path
    """Where peers may write."""
    array: Path
    """The tokens in featcache's cache: (sample, 1, token, dim)."""
    values: Tokens
    """(sample, token, dim), in memory."""
    out: Tokens
    """(batch, token, dim), reused by whoever can."""


class Peer(NamedTuple):
    """One contestant: the module it needs, the part of a batch it reads (slow ones a few rows), and how."""

    module: str
    part: int
    prepare: Callable[[Stored], Read]


def _zarr_python(stored: Stored) -> Read:
    import zarr

    array: Any = zarr.open_array(stored.array, mode="r")
    return lambda rows: array.oindex[rows, 0]


def _zarrs(stored: Stored) -> Read:
    import zarr

    # An array keeps the pipeline under which it was opened.
    with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
        array: Any = zarr.open_array(stored.array, mode="r")

    def read(rows: Rows) -> None:
        for at, row in enumerate(rows.tolist()):
            stored.out[at] = array[row, 0]

    return read


def _tensorstore(stored: Stored) -> Read:
    import tensorstore

    kvstore = {"driver": "file", "path": str(stored.array.absolute())}
    array = tensorstore.open({"driver": "zarr3", "kvstore": kvstore}).result()
    return lambda rows: array[rows, 0].read().result()


def _memmap(stored: Stored) -> Read:
    path = stored.folder / "rows.npy"
    np.save(path, stored.values)
    mapped = np.load(path, mmap_mode="r")
    return lambda rows: np.take(mapped, rows, axis=0, out=stored.out[: len(rows)], mode="clip")


def _h5py_contiguous(stored: Stored) -> Read:
    import h5py

    path = stored.folder / "contiguous.h5"
    with h5py.File(path, "w") as file:
        file["tokens"] = stored.values
    tokens = h5py.File(path)["tokens"]

    def read(rows: Rows) -> None:
        for at, row in enumerate(rows.tolist()):
            tokens.read_direct(stored.out, row, at)

    return read


def _h5py_chunked(stored: Stored) -> Read:
    import h5py

    path = stored.folder / "chunked.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("tokens", data=stored.values, chunks=True)
    tokens = h5py.File(path)["tokens"]
    return lambda rows: tokens[rows]


def _litdata(stored: Stored) -> Read:
    import litdata

    path, source = stored.folder / "litdata", stored.folder / "litdata.npy"
    np.save(source, stored.values)
    litdata.optimize(
        functools.partial(_row, str(source)),
        list(range(len(stored.values))),
        str(path),
        num_workers=1,
        chunk_bytes=SHARD_BYTES,
    )
    source.unlink()
    return _one_by_one(litdata.StreamingDataset(str(path)), stored.out)


def _row(path: str, row: int) -> dict[str, Any]:
    return {"tokens": np.load(path, mmap_mode="r")[row].copy()}


def _streaming(stored: Stored) -> Read:
    import streaming

    path = str(stored.folder / "mds")
    kind = "ndarray:float16:" + ",".join(map(str, stored.values.shape[1:]))
    with streaming.MDSWriter(out=path, columns={"tokens": kind}, size_limit=SHARD_BYTES) as writer:
        for row in stored.values:
            writer.write({"tokens": row})
    return _one_by_one(streaming.StreamingDataset(local=path, batch_size=len(stored.out)), stored.out)


def _one_by_one(dataset: Any, out: Tokens) -> Read:
    """Copy samples by index into the batch, as a collating DataLoader does."""

    def read(rows: Rows) -> None:
        for at, row in enumerate(rows.tolist()):
            out[at] = dataset[row]["tokens"]

    return read


PEERS = {
    "zarr-python (oindex)": Peer("zarr", 4, _zarr_python),
    "zarrs (codec pipeline of zarr-python)": Peer("zarrs", 64, _zarrs),
    "tensorstore": Peer("tensorstore", 256, _tensorstore),
    "h5py contiguous (read_direct)": Peer("h5py", 256, _h5py_contiguous),
    "h5py chunked (index)": Peer("h5py", 16, _h5py_chunked),
    "litdata (dataset[i])": Peer("litdata", 64, _litdata),
    "mosaicml-streaming (dataset[i])": Peer("streaming", 256, _streaming),
    "numpy memmap (take)": Peer("numpy", 256, _memmap),
}
