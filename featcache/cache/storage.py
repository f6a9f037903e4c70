"""Where a cache lies: besides the memory map, the only part of `cache` that touches the operating system."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

from featcache import files, replacing
from featcache.errors import CacheError, option
from featcache.location import Location
from featcache.locks import WAIT, FileLock

PARTIAL = files.PARTIAL
"""The ending of names that are not complete yet; no key of a cache ends with it."""
now = files.now
NewFile = files.NewFile
Stamp = files.Stamp
T = TypeVar("T")
_DESCRIPTION = "zarr.json"


def _ignore(read: int) -> None:
    """Count nothing."""


class Lock(Protocol):
    """A lock that is held."""

    def release(self) -> None:
        """Let the next holder in."""


@contextmanager
def held(lock: Lock) -> Iterator[None]:
    """Hold a lock within a block."""
    try:
        yield
    finally:
        lock.release()


@runtime_checkable
class Storage(Protocol):
    """A place that holds files under keys.

    A key is a relative path with `/` between its parts; the empty key is the place itself. `str` gives the
    name of the place, as messages show it. A storage can be pickled and used from several threads. Methods
    that write raise OSError where the system fails; see `explained`.
    """

    @property
    def name(self) -> str:
        """The last part of its name, or of the prefix that it was made with."""

    def pinned(self) -> Storage:
        """Return a storage that reads only while the description of the cache here is the same file as now.

        Its `read`, `checksum` and `require_pin` raise CacheError once another cache has taken the place.
        """

    def require_pin(self) -> None:
        """Raise CacheError if the cache has been replaced since `pinned`; nothing else is ever raised."""

    def below(self, prefix: str) -> Storage:
        """Return the storage of all keys that begin with `prefix/`."""

    def read(self, key: str) -> bytes | None:
        """Return the bytes of a file, or None if there is none; raise CacheError if it is unreadable."""

    def size(self, key: str) -> int | None:
        """Return the number of bytes of a file, or None if there is none."""

    def stamp(self, key: str) -> Stamp | None:
        """Return which file has a key, and when it was last written to; None if there is none."""

    def checksum(self, key: str, advance: Callable[[int], object] = ...) -> tuple[int, int] | None:
        """Return (bytes, crc32c) of a file, which may be large, or None if there is none.

        Calls `advance` with numbers of bytes as they are read. Raise CacheError if the file is unreadable.
        """

    def names(self, prefix: str = "") -> list[str]:
        """List the names directly below a prefix, sorted: of files, and of prefixes."""

    def nbytes(self, prefix: str = "") -> int:
        """Return the number of bytes of all files below a prefix."""

    def write(self, contents: Mapping[str, bytes]) -> None:
        """Write small files by key: each appears complete, in the order given; all are durable on return."""

    def scratch(self, key: str) -> Path:
        """Return the local path at which a large file is written before `publish` gives it its key."""

    def publish(self, scratch: Mapping[str, Path]) -> None:
        """Give keys to finished files, which are durable under these keys on return.

        The files must be forced to disk before (`NewFile.force`). The first part of a key with several parts
        must be a prefix that `write` has used.
        """

    def link(self, keys: Mapping[str, str], other: Storage) -> None:
        """Give files of another storage of the same kind, by their key there, keys here too.

        They are durable under these keys on return. Where there are no links, they are copied.
        """

    def local(self, key: str) -> Path:
        """Return the path of a local file to map; nothing is at that path where the key has no file."""

    def delete(self, prefix: str) -> None:
        """Delete a file, or everything below a prefix, together with unfinished writes of that name.

        Deletion is atomic: a killed process leaves either everything, or nothing under this name.
        """

    def beside(self) -> Storage:
        """Return the storage in which a replacement of this one is written."""

    def replace(self) -> None:
        """Put what was written `beside` in the place of this storage, atomically; `tidy` comes next."""

    def tidy(self, is_own: IsOwn) -> None:
        """Delete what `replace` replaced, also where it was killed; the caller holds the lock.

        What `is_own` does not recognise as a part of a cache moves to its successor.
        """

    def lock(self, part: str | None = None) -> Lock:
        """Take the lock of the only writer; raise CacheError, naming the holder, if another one has it.

        A process that writes a `part`, such as 3-of-8, waits for it, and takes it only for what all parts
        have in common: it takes the lock of its part, and releases this one.
        """

    def lock_part(self, part: str, *, wait: bool = False) -> Lock:
        """Take the lock of a part, while the lock of all is held; `wait` for another holder of it."""


IsOwn = Callable[[Storage], bool]
"""Tells whether the storage below a name is a part of a cache."""
Place = str | os.PathLike[str] | Location
"""A folder, as users name it."""


def storage_at(place: Place | Storage) -> Storage:
    """Return the storage at a place; raise ConfigError for a URL such as `s3://bucket/key`."""
    return place if isinstance(place, Storage) else Folder(Location.of(place).path)


def folder_of(storage: Storage) -> Path:
    """Return the path of a storage that is a folder; raise CacheError for any other storage."""
    if isinstance(storage, Folder):
        return storage.path
    raise CacheError(f"{storage} is not a folder on this machine", got=type(storage).__name__)


def explained(storage: Storage, what: str = "", needed: int = 0) -> AbstractContextManager[None]:
    """Turn an OSError inside the block into a CacheError that names what was written and what to do.

    `what` is written to `storage`; `needed` is the number of bytes that are still to write.
    """
    return files.explained(
        Path(str(storage)),
        needed,
        what=f"{what} of {storage}" if what else None,
        error=CacheError,
        again="free some space and repeat the command: it continues with what is missing",
    )


@dataclass(frozen=True)
class _Pin:
    """A file that must stay the same one."""

    path: Path
    stamp: Stamp | None

    def require(self) -> None:
        if Stamp.of(self.path) != self.stamp:
            raise CacheError(
                f"{self.path.parent} was replaced since it was opened",
                got="another cache at the same place, or none",
                hint="open it again, or repeat the command",
            )


@dataclass(frozen=True)
class Folder:
    """A storage in a folder of this machine."""

    path: Path
    pin: _Pin | None = None

    def __str__(self) -> str:
        return str(self.path)

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.path.name

    def below(self, prefix: str) -> Folder:
        """Return the folder `prefix` of this one."""
        return Folder(self.path / prefix, self.pin)

    def pinned(self) -> Folder:
        """Return the folder, to be read only while its `zarr.json` is the same file as now."""
        description = self.path / _DESCRIPTION
        return Folder(self.path, _Pin(description, Stamp.of(description)))

    def require_pin(self) -> None:
        """Raise CacheError if the cache has been replaced since `pinned`."""
        if self.pin is not None:
            self.pin.require()

    def read(self, key: str) -> bytes | None:
        """Return the bytes of a file, or None if there is none."""
        path = self.path / key
        data = _read(path, path.read_bytes)
        self.require_pin()
        return data

    def size(self, key: str) -> int | None:
        """Return the number of bytes of a file, or None if there is none."""
        try:
            found = (self.path / key).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return found.st_size if stat.S_ISREG(found.st_mode) else None

    def stamp(self, key: str) -> Stamp | None:
        """Return which file it is, and when it was last written to; None if there is none."""
        return Stamp.of(self.path / key)

    def checksum(self, key: str, advance: Callable[[int], object] = _ignore) -> tuple[int, int] | None:
        """Return (bytes, crc32c) of a file, or None if there is none."""
        path = self.path / key
        found = _read(path, lambda: files.checksum(path, advance))
        self.require_pin()
        return found

    def names(self, prefix: str = "") -> list[str]:
        """List the names directly in a folder, sorted; none where there is no folder."""
        return sorted(_read(path := self.path / prefix, lambda: os.listdir(path)) or [])

    def nbytes(self, prefix: str = "") -> int:
        """Return the number of bytes of all files below a folder."""
        return sum(file.stat().st_size for file in (self.path / prefix).rglob("*") if file.is_file())

    def write(self, contents: Mapping[str, bytes]) -> None:
        """Write each file beside its place, force it to disk, and rename it."""
        paths = {self.path / key: data for key, data in contents.items()}
        changed = {folder for path in paths for folder in files.make(path.parent)}
        files.write_all(paths, changed)

    def scratch(self, key: str) -> Path:
        """Return a path in the folder that the file will be in."""
        path = self.path / key
        path.parent.mkdir(parents=True, exist_ok=True)
        return files.partial(path)

    def publish(self, scratch: Mapping[str, Path]) -> None:
        """Rename the files; then force every folder of theirs to disk once, all at the same time."""
        for key, path in scratch.items():
            os.replace(path, self.path / key)
        files.sync({folder for key in scratch for folder in _folders(self.path, key)})

    def link(self, keys: Mapping[str, str], other: Storage) -> None:
        """Make hard links; copies where the disk has none."""
        for key, theirs in keys.items():
            (self.path / key).parent.mkdir(parents=True, exist_ok=True)
            files.link(other.local(theirs), self.path / key)
        files.sync({folder for key in keys for folder in _folders(self.path, key)})

    def local(self, key: str) -> Path:
        """Return the path of the file itself."""
        return self.path / key

    def delete(self, prefix: str) -> None:
        """Delete a file, or rename a folder and then delete it."""
        files.delete(self.path / prefix)

    def beside(self) -> Folder:
        """Return the folder `PATH.partial`, which is on the same disk, also if PATH is a link."""
        _require_no_root(folder := self._folder())
        return Folder(files.partial(folder))

    def replace(self) -> None:
        """Exchange the two folders."""
        replacing.replace(self._folder())

    def tidy(self, is_own: IsOwn) -> None:
        """Delete a folder beside that was replaced, and end an exchange that was killed."""
        replacing.tidy(self._folder(), lambda path: is_own(Folder(path)), _DESCRIPTION)

    def lock(self, part: str | None = None) -> Lock:
        """Hold the file `PATH.lock`; the lock of a killed process is free again."""
        path = self.path.with_name(self.path.name + ".lock")
        return FileLock.of_all(path, f"writing {self.path}", CacheError, part)

    def lock_part(self, part: str, *, wait: bool = False) -> Lock:
        """Hold the file `PATH.lock.PART`."""
        path = self.path.with_name(f"{self.path.name}.lock.{part}")
        return FileLock(path, f"writing part {part} of {self.path}", CacheError, WAIT if wait else 0.0)

    def _folder(self) -> Path:
        return self.path.resolve() if self.path.is_symlink() else self.path


def _require_no_root(folder: Path) -> None:
    if folder.is_mount():
        raise CacheError(
            f"{folder} is the root of a disk, so nothing can be written beside it and take its place",
            hint=f"delete what is in it and leave out {option('overwrite')}, or use a folder in it",
        )


def _folders(path: Path, key: str) -> set[Path]:
    # A file may be the first in several new folders, whose names are to be durable as well.
    parts = key.split("/")[:-1]
    return {path.joinpath(*parts[:depth]) for depth in range(min(1, len(parts)), len(parts) + 1)}


def _read(path: Path, call: Callable[[], T]) -> T | None:
    """Return what a call reads from a file; None if there is none."""
    try:
        return call()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    except OSError as error:
        raise CacheError(f"cannot read {path}", got=error.strerror) from error
