"""The arrays of a cache as columns, to be written in another format."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.cache.array import ShardedArray
from featcache.cache.codec import from_bfloat16
from featcache.cache.labels import LabelTable
from featcache.cache.quantise import dequantise
from featcache.cache.reader import CacheReader, SplitReader
from featcache.cache.spec import array_name, scale_name
from featcache.exchange.columns import Column, Handle, kind_of
from featcache.exchange.described import array_names, key_of


def columns_of(cache: CacheReader, split: SplitReader, labels: LabelTable) -> dict[str, Column]:
    """Return ids, labels and status of a split, and its features in every view.

    int8 tokens are given as the float32 values that a training sees.
    """
    rows = split.rows
    found = {
        "ids": Column("ids", rows, (), "string", lambda start, stop: split.ids[start:stop]),
        "labels": _single("labels", labels.of(split.name, rows)),
        "status": Column("status", rows, (len(split.views),), "int", _Read(split.status)),
    }
    for view, name in enumerate(split.views):
        for array in array_names(cache.spec, cache.shapes):
            found[key_of(name, array)] = _features(cache, split, array, view)
    return found


def _single(name: str, values: NDArray[Any]) -> Column:
    return Column(name, len(values), values.shape[1:], kind_of(values.dtype), _Read(values))


class _Read:
    """Reads rows of an array in memory."""

    def __init__(self, values: NDArray[Any]) -> None:
        self._values = values

    def __call__(self, start: int, stop: int) -> NDArray[Any]:
        return self._values[start:stop]


def _features(cache: CacheReader, split: SplitReader, name: str, view: int) -> Column:
    handle, layout = opened(split, name), split.array(name).layout
    std = {array_name(cache.shapes, layer.layer): np.array(layer.std, "f4") for layer in cache.shapes.layers}
    if len(std.get(name, ())):
        return _int8(split, name, view, std[name])
    kind = "bfloat16" if layout.bfloat16 else kind_of(layout.dtype)

    def read(start: int, stop: int) -> NDArray[Any]:
        found = handle((stop - start) * layout.row_bytes).gather(np.arange(start, stop), view)
        split.checks.finish()
        return from_bfloat16(found) if layout.bfloat16 else found

    return Column(name, split.rows, layout.row_shape, kind, read)


def _int8(split: SplitReader, name: str, view: int, std: NDArray[np.float32]) -> Column:
    tokens, scale = opened(split, name), opened(split, scale_name(name))
    layout = split.array(name).layout

    def read(start: int, stop: int) -> NDArray[Any]:
        rows = np.arange(start, stop)
        values = tokens((stop - start) * layout.row_bytes).gather(rows, view)
        scales = scale().gather(rows, view)
        split.checks.finish()
        return dequantise(values, scales, std)

    return Column(name, split.rows, layout.row_shape, "float32", read)


def opened(split: SplitReader, name: str) -> Handle[ShardedArray]:
    """Return a handle on an array of a split, whose shards are checked as they are read."""

    def make() -> ShardedArray:
        return ShardedArray.open(split.storage.below(name), strict=True, checks=split.checks)

    return Handle(make)
