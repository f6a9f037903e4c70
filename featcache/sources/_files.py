"""Image files on disk, read by name."""

from __future__ import annotations

import os
import re
from collections import Counter
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
_UNREAD = re.compile(
    r".*\.(heic|heif|dng|cr2|cr3|nef|arw|raf|orf|rw2|psd|svg|jp2|j2k|jxl|czi|lif|nd2|svs|ndpi"
    r"|dcm|nii|pdf|mp4|mov|avi)",
    re.IGNORECASE,
)
"""Pictures that people have, and that are not read."""

EMBEDDINGS = "embeddings need no model: `featcache import` brings them into a cache"
"""The hint where a file holds neither images nor texts."""


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


def unread_images(root: Path) -> list[str]:
    """Return the files below `root` in formats of pictures that are not read, as relative POSIX paths."""
    found = []
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        base = Path(folder).relative_to(root)
        found += [(base / name).as_posix() for name in sorted(files) if _is_unread(name)]
    return found


def describe_unread(names: Sequence[str]) -> str:
    """Count files of formats that are not read, by suffix.

    >>> describe_unread(["a.heic", "b.HEIC", "c.pdf"])
    '3 files are of formats that are not read: .heic (2), .pdf (1)'
    """
    counts = sorted(Counter(Path(name).suffix.lower() for name in names).items())
    listed = ", ".join(f"{suffix} ({count})" for suffix, count in counts)
    return f"{len(names)} files are of formats that are not read: {listed}"


def _is_unread(name: str) -> bool:
    return not name.startswith(".") and _UNREAD.fullmatch(name) is not None


def may_be_embeddings(path: Path) -> bool:
    """Return True for tensors, a Zarr array or group, and a folder that `datasets` saved."""
    marks = ("zarr.json", ".zgroup", ".zarray", "state.json", "dataset_dict.json")
    return path.suffix in (".pt", ".pth", ".safetensors") or any((path / mark).is_file() for mark in marks)


def printable(name: str) -> str:
    """Return `name` as valid Unicode, as file names may not be UTF-8 and ids must be."""
    return name.encode("utf-8", "backslashreplace").decode()
