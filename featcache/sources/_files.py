"""Image files on disk, read by name."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from featcache.errors import SampleError

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


@dataclass(frozen=True)
class Files:
    """Reads whole files below `root`, or at an absolute name; keeps no file open."""

    root: str
    names: Sequence[str]

    def path(self, row: int) -> Path:
        """Return the path of a row's file, which may not exist."""
        return Path(self.root, self.names[row])

    def __call__(self, row: int) -> bytes:
        try:
            return self.path(row).read_bytes()
        except OSError as error:
            raise SampleError("the file cannot be read", got=error.strerror or type(error).__name__) from None


def image_files(root: Path) -> Iterator[str]:
    """Yield the image files below `root`, as relative POSIX paths.

    Hidden files and folders are left out; links are followed.
    """
    seen: set[str] = set()
    for folder, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link to a parent folder would loop forever
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        base = Path(folder).relative_to(root)
        for name in files:
            if not name.startswith(".") and Path(name).suffix.lower() in IMAGE_SUFFIXES:
                yield (base / name).as_posix()


def printable(name: str) -> str:
    """Return `name` as valid Unicode, as file names may not be UTF-8 and ids must be."""
    return name.encode("utf-8", "backslashreplace").decode()
