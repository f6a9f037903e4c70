"""HDF5 with a dataset of images (N, H, W[, C]) and one of labels; groups called train, test, ... are splits.

Names are read as in `_arrays`; an optional dataset `class_names` names the classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from featcache import limits
from featcache.errors import SampleError
from featcache.sources._arrays import assemble_arrays
from featcache.sources._files import parsing
from featcache.sources._hdf5 import datasets
from featcache.sources._samples import Lazy, Reader
from featcache.sources.base import Source

_SUFFIXES = (".h5", ".hdf5", ".hdf", ".he5")


def match(path: Path) -> bool:
    """Return True for a file with an HDF5 suffix."""
    return path.suffix.lower() in _SUFFIXES and path.is_file()


def splits(path: str, label_column: str | None = None) -> dict[str, Source]:
    """Return the splits in the file; `label_column` is the name of the dataset of labels.

    Raise SourceError as `assemble_arrays` does.
    """
    with parsing(path, "HDF5"), _open_file(path) as file:
        arrays = dict(datasets(file))
        handle = Lazy(_open_file, path)

        def reader_of(name: str) -> Reader:
            return _Reader(handle, name)

        return assemble_arrays(Path(path), arrays, label_column, reader_of)


@dataclass(frozen=True)
class _Reader:
    """Reads rows of a dataset from a file that is opened on first use."""

    handle: Lazy[Any]
    name: str

    def __call__(self, row: int) -> NDArray[Any]:
        try:
            pixels: NDArray[Any] = self.handle()[self.name][row]
        except Exception as error:  # of whatever kind h5py finds for damaged bytes
            limits.require_none(error, f"row {row} of `{self.name}`")
            raise SampleError("the row cannot be read from the HDF5 file", got=type(error).__name__) from None
        return pixels


def _open_file(path: str) -> Any:
    """Open an HDF5 file; raise SourceError if it cannot be read."""
    import h5py

    with parsing(path, "HDF5"):
        return h5py.File(path, "r")
