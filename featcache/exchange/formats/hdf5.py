"""HDF5: every dataset of a file by its path, through soft and external links; bags of CLAM and TRIDENT."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from featcache.errors import SourceError
from featcache.exchange.columns import Column, Handle, Opened, kind_of, native, text
from featcache.sources._hdf5 import datasets

SUFFIXES = (".h5", ".hdf5", ".hdf", ".he5")
DESCRIBED = "featcache"
"""The dataset with the description of an export; an attribute could not hold more than 64 kB."""


def open_file(path: Path, name: str) -> Opened:
    """Return the datasets of a file.

    Raise SourceError if it cannot be read, and as `datasets` does for links and virtual datasets.
    """
    import h5py

    def make() -> Any:
        with _readable(name):
            return h5py.File(path, "r")

    handle = Handle(make)
    columns: dict[str, Column] = {}
    for key, dataset in datasets(handle()):
        if dataset.shape:
            columns[key] = _column(handle, key, dataset, f"`{key}` in {name}")
    file = handle()
    classes, described = file.attrs.get("class_names"), file.get(DESCRIBED)
    names = None if classes is None else tuple(str(text(value)) for value in np.atleast_1d(classes).tolist())
    known = isinstance(described, h5py.Dataset) and not described.shape
    return Opened(name, columns, names, described=json.loads(described[()]) if known else None)


def _column(handle: Handle[Any], key: str, dataset: Any, where: str) -> Column:
    import h5py

    texts = h5py.check_string_dtype(dataset.dtype) is not None

    def read(start: int, stop: int) -> Any:
        with _readable(where):
            values = handle()[key][start:stop]
        return [text(value) for value in values.reshape(-1).tolist()] if texts else native(values)

    kind = "string" if texts else kind_of(dataset.dtype)
    return Column(where, dataset.shape[0], dataset.shape[1:], kind, read)


@contextmanager
def _readable(where: str) -> Iterator[None]:
    try:
        yield
    except (OSError, KeyError) as error:
        raise SourceError(f"{where} cannot be read as HDF5", got=error) from None
