"""Open the arrays of a cache with other libraries: dask and xarray."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featcache.cache.array import ShardedArray
from featcache.cache.codec import from_bfloat16
from featcache.cache.reader import SplitReader
from featcache.errors import MissingExtra

if TYPE_CHECKING:
    import dask.array
    import xarray


def to_dask(array: ShardedArray) -> dask.array.Array:
    """Return the array as a lazy dask array (sample, view, ...row), one block per shard and view.

    bfloat16 becomes float32.
    """
    import dask.array as da

    blocks = range(0, array.shape[0], array.layout.shard[0])
    rows = tuple(min(array.layout.shard[0], array.shape[0] - start) for start in blocks)
    chunks = (rows, (1,) * array.shape[1], *((size,) for size in array.row_shape))
    kind: np.dtype[Any] = np.dtype(np.float32) if array.bfloat16 else array.dtype
    lazy: dask.array.Array = da.map_blocks(  # type: ignore[no-untyped-call]
        _read_block, array=array, chunks=chunks, dtype=kind, meta=np.empty((0,) * len(array.shape), kind)
    )
    return lazy


def to_xarray(split: SplitReader) -> xarray.Dataset:
    """Return every array of a split as a lazy xarray data set with named axes; bfloat16 becomes float32.

    Raise MissingExtra without xarray, CacheError if the split is not in a folder.
    """
    try:
        import xarray
    except ImportError:
        raise MissingExtra.of("xarray", "xarray") from None
    dataset: xarray.Dataset = xarray.open_zarr(split.path, consolidated=False, chunks=None)
    for name in split.arrays:
        array = split.array(name)
        if array.bfloat16:
            dataset[name] = dataset[name].dims, to_dask(array)
    return dataset.assign_coords(view=list(split.views))


def _read_block(array: ShardedArray, block_info: dict[Any, Any]) -> NDArray[Any]:
    (start, stop), (view, _), *_ = block_info[None]["array-location"]
    rows = array.gather(np.arange(start, stop), view)[:, None]
    array.finish_checks()
    return from_bfloat16(rows) if array.bfloat16 else rows
