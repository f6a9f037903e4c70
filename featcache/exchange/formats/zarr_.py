"""Zarr, version 2 or 3, compressed or not: an array, or every array of a group by its path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from featcache.errors import SourceError
from featcache.exchange.columns import Column, Opened, kind_of, native
from featcache.exchange.formats.numpy_ import BARE

MARKS = ("zarr.json", ".zgroup", ".zarray")


def match(path: Path) -> bool:
    """Return True for a folder that is a Zarr array or group."""
    return path.is_dir() and any((path / mark).is_file() for mark in MARKS)


def open_file(path: Path, name: str) -> Opened:
    """Return the arrays of a group, or the only one; raise SourceError if zarr-python cannot read it."""
    import zarr

    try:
        found = zarr.open(path, mode="r")
        arrays: dict[str, Any] = {BARE: found}
        if isinstance(found, zarr.Group):
            members = found.members(max_depth=None)
            arrays = {key: item for key, item in members if isinstance(item, zarr.Array)}
    except Exception as error:
        raise SourceError(f"{name} cannot be read as Zarr", got=f"{type(error).__name__}: {error}") from None
    if "featcache" in found.attrs:
        raise SourceError(
            f"{name} is a cache of featcache already", hint="use it as it is, or copy its folder"
        )
    columns = {key: _column(array, f"`{key}` in {name}") for key, array in arrays.items() if array.shape}
    return Opened(name, columns)


def _column(array: Any, where: str) -> Column:
    def read(start: int, stop: int) -> Any:
        try:
            return native(array[start:stop])
        except Exception as error:  # codecs raise what they like
            raise SourceError(f"{where} cannot be read", got=f"{type(error).__name__}: {error}") from None

    return Column(where, array.shape[0], tuple(array.shape[1:]), kind_of(array.dtype), read)
