"""NumPy arrays of images, (N, H, W[, C]): one .npy file, or an .npz with named arrays.

- `.npy`: labels are in a file beside it, whose name has `y` for `x`, or `labels` for `images`
  (`x_train.npy`, `y_train.npy`). Without such a file, the samples are unlabelled.
- `.npz`: names are read as in `_arrays` (`x_train`, `y_train`, `images`, `labels`, ...); `class_names` is
  optional.

Arrays are memory-mapped, except those of a compressed .npz, which has no random access.
"""

from __future__ import annotations

import re
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.errors import SourceError, option
from featcache.sources._arrays import assemble_arrays
from featcache.sources._files import parsing
from featcache.sources._samples import Lazy, Reader
from featcache.sources.base import Source

_LABELS_OF = {"x": "y", "images": "labels"}


def match(path: Path) -> bool:
    """Return True for an .npy or .npz file."""
    return path.suffix in (".npy", ".npz") and path.is_file()


def splits(path: str, label_column: str | None = None) -> dict[str, Source]:
    """Return the splits in the file; `label_column` is the name of the labels in an .npz.

    Raise SourceError as `assemble_arrays` does.
    """
    file = Path(path)
    if file.suffix == ".npz":
        with parsing(path, "NumPy arrays"), zipfile.ZipFile(path) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
        arrays = {name: _member(path, name) for name in names}
        return assemble_arrays(file, arrays, label_column, lambda name: _reader(_member, path, name))
    if label_column is not None:
        raise SourceError(
            "an .npy file has its labels in the file beside it, not in a column",
            got=option("label_column", label_column),
            hint="call the files x.npy and y.npy",
        )
    arrays = {"images": _load(path)}
    labels = _labels_beside(file)
    if labels is not None:
        arrays["labels"] = _load(str(labels))
    return assemble_arrays(file, arrays, None, lambda name: _reader(_load, path))


@dataclass(frozen=True)
class _Reader:
    """Reads rows of an array that is mapped on first use."""

    array: Lazy[NDArray[Any]]

    def __call__(self, row: int) -> NDArray[Any]:
        return np.asarray(self.array()[row])


def _reader(make: Any, *args: str) -> Reader:
    return _Reader(Lazy(make, *args))


def _labels_beside(file: Path) -> Path | None:
    """Return the .npy file of labels that belongs to an .npy file of images, if there is one."""
    words = re.split(r"([_.-])", file.stem)
    renamed = "".join(_LABELS_OF.get(word, word) for word in words)
    labels = file.with_name(renamed + file.suffix)
    return labels if labels != file and labels.is_file() else None


def _load(path: str) -> Any:
    """Open an .npy file, memory-mapped."""
    with parsing(path, "NumPy arrays"):
        return np.load(path, mmap_mode="r", allow_pickle=False)


def _member(path: str, name: str) -> NDArray[Any]:
    """Return one array of an .npz, memory-mapped if it is not compressed (NumPy maps none of them)."""
    with parsing(path, "NumPy arrays"), zipfile.ZipFile(path) as archive:
        info = archive.getinfo(f"{name}.npy")
        if info.compress_type == zipfile.ZIP_STORED:
            return _mapped(path, info.header_offset)
        with archive.open(info) as stream:
            return np.asarray(np.lib.format.read_array(stream, allow_pickle=False))


def _mapped(path: str, header_offset: int) -> NDArray[Any]:
    """Map an uncompressed .npy member of a zip file, whose local header is at `header_offset`."""
    with Path(path).open("rb") as stream:
        # A local zip header has 30 bytes and two more fields, whose lengths are at bytes 26 and 28.
        stream.seek(header_offset + 26)
        stream.seek(sum(struct.unpack("<HH", stream.read(4))), 1)
        old = np.lib.format.read_magic(stream) == (1, 0)
        header = np.lib.format.read_array_header_1_0 if old else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = header(stream)
        start = stream.tell()
    if dtype.hasobject:
        raise ValueError("an array of Python objects")
    mapped: NDArray[Any] = np.memmap(path, dtype, "r", start, shape, "F" if fortran else "C")
    return mapped
