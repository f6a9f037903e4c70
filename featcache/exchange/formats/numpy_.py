"""NumPy: `.npy` with one array, `.npz` with named ones. Pickled objects are never read."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.errors import SourceError
from featcache.exchange.columns import Column, Handle, Opened, kind_of, native

SUFFIXES = (".npy", ".npz")
BARE = "array"
"""The key of an array that has no name of its own."""


def open_file(path: Path, name: str) -> Opened:
    """Return the arrays of a file; raise SourceError if it is damaged, or holds pickled objects."""
    if path.suffix == ".npy":
        return Opened(name, {BARE: column(path, name)})
    with _readable(name), zipfile.ZipFile(path) as archive:
        members = [member for member in archive.namelist() if member.endswith(".npy")]
        columns = {member[:-4]: _member(path, member, f"`{member[:-4]}` in {name}") for member in members}
        return Opened(name, {key: found for key, found in columns.items() if found is not None})


def column(path: Path, where: str) -> Column:
    """Return the array of one `.npy` file."""

    def make() -> NDArray[Any]:
        with _readable(where):
            # An empty array cannot be mapped.
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        return np.asarray(array) if array.ndim else array.reshape(1)

    handle = Handle(make)
    array = handle()
    row_bytes = array.nbytes // max(len(array), 1)

    def read(start: int, stop: int) -> Any:
        return native(np.array(handle((stop - start) * row_bytes)[start:stop]))

    return Column(where, len(array), array.shape[1:], kind_of(array.dtype), read)


class _Stream:
    """A member of an `.npz`, read front to back: it may be compressed, which leaves no random access."""

    def __init__(self, path: Path, member: str) -> None:
        self._archive = zipfile.ZipFile(path)
        self.file = self._archive.open(member)
        old = np.lib.format.read_magic(self.file) == (1, 0)
        header = np.lib.format.read_array_header_1_0 if old else np.lib.format.read_array_header_2_0
        self.shape, self.fortran, self.dtype = header(self.file)
        self.begin = self.file.tell()


def _member(path: Path, member: str, where: str) -> Column | None:
    """Return an array of an `.npz`; None for a number without axes."""
    handle = Handle(lambda: _Stream(path, member))
    with _readable(where):
        stream = handle()
    if stream.dtype.hasobject:
        raise _pickled(where)
    if not stream.shape:
        return None
    rows, shape, dtype = stream.shape[0], stream.shape[1:], stream.dtype
    row_bytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if stream.fortran and shape:
        return _whole(path, member, where)

    def read(start: int, stop: int) -> Any:
        with _readable(where):
            stream = handle()
            stream.file.seek(stream.begin + start * row_bytes)
            data = stream.file.read((stop - start) * row_bytes)
        if len(data) < (stop - start) * row_bytes:
            raise SourceError(f"{where} ends too early", got=f"row {start + len(data) // row_bytes}")
        return native(np.frombuffer(data, dtype).reshape(stop - start, *shape))

    return Column(where, rows, shape, kind_of(dtype), read)


def _whole(path: Path, member: str, where: str) -> Column:
    """Return an array in Fortran order, of which every row is spread over the whole member."""

    def make() -> NDArray[Any]:
        with _readable(where), zipfile.ZipFile(path) as archive, archive.open(member) as file:
            return np.lib.format.read_array(file, allow_pickle=False)

    handle = Handle(make)
    array = handle()
    read = lambda start, stop: native(handle()[start:stop])  # noqa: E731
    return Column(where, len(array), array.shape[1:], kind_of(array.dtype), read)


@contextmanager
def _readable(where: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, NotImplementedError) as error:
        if any(sign in str(error) for sign in ("allow_pickle", "Object arrays", "Python objects")):
            raise _pickled(where) from None
        raise SourceError(f"{where} cannot be read as NumPy arrays", got=error) from None


def _pickled(where: str) -> SourceError:
    return SourceError(
        f"{where} holds pickled Python objects, which may run code and are not read",
        expected="an array of numbers or of fixed-width texts",
        hint="save it without objects: rows of one length as one array, or one file for each sample",
    )
