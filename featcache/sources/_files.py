"""Read files by name: only regular ones, only so many bytes of each, and without ever waiting for one."""

from __future__ import annotations

import os
import stat
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from featcache import limits
from featcache.errors import FeatcacheError, SampleError, SourceError
from featcache.files import human_bytes

IMAGE_SUFFIXES = frozenset(
    [
        ".jpg",
        ".jpeg",
        ".jfif",
        ".png",
        ".bmp",
        ".gif",
        ".tif",
        ".tiff",
        ".webp",
        ".avif",
        ".ppm",
        ".pgm",
        ".pbm",
        ".pnm",
    ]
)
EMBEDDINGS = "embeddings need no model: `featcache import` brings them into a cache"
"""The hint where a file holds neither images nor texts."""
MAX_BYTES = 512 * 2**20
"""Bytes of one encoded sample: as many as the most pixels of an image take, uncompressed, with 16 bits."""
_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


@dataclass(frozen=True)
class Files:
    """Reads whole files below `root`, or at an absolute name; keeps no file open."""

    root: str
    names: Sequence[str]

    def path(self, row: int) -> Path:
        """Return the path of a row's file, which may not exist.

        A name in another Unicode form is the same name: systems write names of files in different ones. So
        is one with the separators of Windows.
        """
        path = Path(self.root, name := self.names[row])
        if os.path.lexists(path):
            return path
        forms = (unicodedata.normalize(form, name.replace("\\", "/")) for form in ("NFC", "NFD"))
        return next((other for form in forms if os.path.lexists(other := Path(self.root, form))), path)

    def __call__(self, row: int) -> bytes:
        return read_file(self.path(row))


@contextmanager
def parsing(path: str | Path, form: str) -> Iterator[None]:
    """Raise SourceError for whatever a library raises that reads a damaged or hostile file."""
    try:
        yield
    except FeatcacheError:
        raise
    except Exception as error:
        said = (str(error).strip().splitlines() or [""])[0]
        got = f"{path}: {type(error).__name__}: {said}" if said else f"{path}: {type(error).__name__}"
        raise SourceError(f"the file cannot be read as {form}", got=got[:400]) from None


def read_file(path: Path, limit: int = MAX_BYTES) -> bytes:
    """Return the bytes of a file; raise SampleError if it is none, cannot be read, or is above the limit."""
    try:
        with open_file(path) as stream:
            size = os.fstat(stream.fileno()).st_size
            if size > limit:
                raise too_large(size, limit)
            return stream.read(size)
    except OSError as error:
        limits.require_none(error, path)
        raise SampleError("the file cannot be read", got=error.strerror or type(error).__name__) from None
    except ValueError as error:  # a name with a null byte, or half of a surrogate pair
        raise SampleError("the file cannot be read", got=f"no name of a file: {error}") from None


def too_large(size: int, limit: int = MAX_BYTES) -> SampleError:
    """Return the error for a sample, or for a part of one, with more bytes than are read."""
    return SampleError(
        "the file is too large", got=human_bytes(size), expected=f"at most {human_bytes(limit)}"
    )


@contextmanager
def open_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file to read; raise SampleError for a pipe, a socket, a device or a folder.

    Opening some devices has effects, so the path is looked at before. It may be replaced between the two, so
    opening never waits, and what was opened is looked at again.
    """
    _require_regular(os.stat(path).st_mode)
    flags = (
        os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_BINARY", 0)
    )
    with open(os.open(path, flags), "rb") as stream:
        _require_regular(os.fstat(stream.fileno()).st_mode)
        yield stream


def require_file_or_folder(path: Path) -> None:
    """Raise SourceError if there is something at `path` that is neither a file nor a folder."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        got = f"{path}: {_KINDS.get(stat.S_IFMT(mode), 'something else')}"
        raise SourceError("the source is neither a file nor a folder", got=got, hint="save it as a file")


def _require_regular(mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "something else")
        raise SampleError("the file cannot be read", got=kind, expected="a regular file")


def may_be_embeddings(path: Path) -> bool:
    """Return True for tensors, a Zarr array or group, and a folder that `datasets` saved."""
    marks = ("zarr.json", ".zgroup", ".zarray", "state.json", "dataset_dict.json")
    return path.suffix in (".pt", ".pth", ".safetensors") or any((path / mark).is_file() for mark in marks)


def printable(name: str) -> str:
    """Return `name` as valid Unicode, as file names may not be UTF-8 and ids must be."""
    return name.encode("utf-8", "backslashreplace").decode()
