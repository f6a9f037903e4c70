"""Write files that survive a kill: beside their place, forced to disk, then renamed; explain failures."""

from __future__ import annotations

import errno
import functools
import io
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

import google_crc32c
import numpy as np

from featcache.errors import FeatcacheError, FileError, option

PARTIAL = ".partial"
_PIECE = 1 << 18
_AT_ONCE = 16
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.EXDEV, errno.ENOSYS}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}


def partial(path: Path) -> Path:
    """Return the path at which `path` is written before it is complete."""
    return path.with_name(path.name + PARTIAL)


def write_atomic(path: Path, data: bytes) -> None:
    """Write a small file atomically: after a kill it is unchanged or complete. It is durable on return."""
    write_all({path: data})


def write_all(contents: Mapping[Path, bytes], folders: Iterable[Path] = ()) -> None:
    """Write several files as `write_atomic` does; they get their names in the order given.

    `folders` are others in which names have been added, to be made durable as well.
    """
    try:
        at_once([functools.partial(_write_synced, partial(path), data) for path, data in contents.items()])
    except BaseException:
        for path in contents:
            partial(path).unlink(missing_ok=True)
        raise
    for path in contents:
        os.replace(partial(path), path)
    sync({path.parent for path in contents}.union(folders))


def link(path: Path, name: Path) -> None:
    """Give a file a second name; where the disk has no links, the name of a copy, which is forced to disk."""
    try:
        os.link(path, name)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        shutil.copyfile(path, partial(name))
        with open(partial(name), "rb") as file:
            os.fsync(file.fileno())
        os.replace(partial(name), name)


def checksum(path: Path, advance: Callable[[int], object]) -> tuple[int, int]:
    """Return (bytes, crc32c) of a file; calls `advance` with numbers of bytes as they are read."""
    piece = np.empty(_PIECE, np.uint8)  # it stays in the processor's cache
    size = crc32c = 0
    with open(path, "rb", buffering=0) as file:
        while read := file.readinto(piece.data):
            crc32c = google_crc32c.extend(crc32c, piece[:read])
            size += read
            advance(read)
    return size, crc32c


class Stamp(NamedTuple):
    """A file, and when it was last written to."""

    file: tuple[int, int]
    written: tuple[int, int]

    @classmethod
    def of(cls, path: Path) -> Stamp | None:
        """Return the stamp of a file; None if it cannot be reached."""
        try:
            found = path.stat()
        except OSError:
            return None
        return cls((found.st_dev, found.st_ino), (found.st_mtime_ns, found.st_size))


def now() -> str:
    """Return the date and time in UTC; that of SOURCE_DATE_EPOCH, if it is set, for reproducible bytes."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    time = datetime.fromtimestamp(int(epoch), UTC) if epoch else datetime.now(UTC)
    return time.isoformat(timespec="seconds")


def at_once(calls: Sequence[Callable[[], object]]) -> None:
    """Make calls that wait for the disk, in threads; return when all have ended, and raise the first error.

    A file system with a journal commits it once for all who wait. Eight small files are durable three times
    sooner than one after the other.
    """
    if len(calls) == 1:
        calls[0]()
        return
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        waiting = [pool.submit(call) for call in calls]
    for done in waiting:
        done.result()


def sync(paths: Iterable[Path]) -> None:
    """Force files to disk, and the names in folders."""
    at_once([functools.partial(_sync, path) for path in paths])


def _write_synced(path: Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make(folder: Path) -> list[Path]:
    """Create a folder and those above it; return the folders in which a name has been added."""
    missing = list(takewhile(lambda place: not place.exists(), (folder, *folder.parents)))
    if missing:
        folder.mkdir(parents=True, exist_ok=True)
    return [place.parent for place in missing]


def delete(path: Path) -> None:
    """Delete a file or a folder, which is renamed first, and what is unfinished of that name."""
    unfinished = partial(path)
    if unfinished.is_dir():
        shutil.rmtree(unfinished)
    unfinished.unlink(missing_ok=True)
    if path.is_dir():
        os.replace(path, unfinished)
        shutil.rmtree(unfinished)
    path.unlink(missing_ok=True)


def existing(path: Path) -> Path:
    """Return `path`, or the nearest folder above it that exists: it is on the disk that will hold `path`."""
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())


def free_bytes(path: Path) -> int:
    """Return the bytes that are free on the disk which holds `path`, or will hold it."""
    return shutil.disk_usage(existing(path)).free


def require_temporary_folder() -> None:
    """Raise FileError if no temporary folder can be written to, because torch needs one."""
    try:
        tempfile.gettempdir()
    except FileNotFoundError as problem:
        raise FileError(
            "no temporary folder can be written to",
            got=problem.strerror,
            hint="free some space, or name a folder in the environment variable TMPDIR",
        ) from problem


def human_bytes(count: float) -> str:
    """Format a number of bytes for people.

    >>> human_bytes(1_234_567)
    '1.2 MB'
    """
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


@contextmanager
def explained(
    path: Path,
    needed: int = 0,
    *,
    what: str | None = None,
    error: type[FeatcacheError] = FileError,
    again: str = "free some space and repeat the command",
) -> Iterator[None]:
    """Turn an OSError inside the block into an `error` that says what was written and what to do.

    `what` is written to the disk of `path`; by default, it is `path` itself. `needed` is the number of bytes
    still to write; `again` is the hint for a full disk.
    """
    try:
        yield
    except OSError as problem:
        what = what or str(path)
        got = f"{problem.strerror or problem} ({problem.filename or path})"
        if problem.errno in _FULL:
            free = free_bytes(path)
            raise error(
                f"the disk (or a quota or file-size limit) is full while writing {what}",
                got=f"{got}; {free:,} bytes free",
                expected=f"room for {needed:,} more bytes" if needed else None,
                hint=again,
            ) from problem
        denied = f"choose a place you may write to ({option('out')})"
        hint = denied if problem.errno in _DENIED else f"check the path given to {option('out')}"
        raise error(f"cannot write {what}", got=got, hint=hint) from problem


class NewFile:
    """A file that is written front to back at a path given by `Storage.scratch`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = io.FileIO(path, "wb")

    def write(self, data: memoryview) -> None:
        """Write all of `data`, bytes in a row."""
        while data:
            data = data[self._file.write(data) :]

    def force(self) -> int:
        """Force the file to disk and close it; return the size that the file system reports."""
        os.fsync(self._file.fileno())
        size = os.fstat(self._file.fileno()).st_size
        self._file.close()
        return size

    def discard(self) -> None:
        """Close the file, and delete it unless it has been published."""
        self._file.close()
        self.path.unlink(missing_ok=True)
