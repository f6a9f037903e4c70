"""Files that survive a kill: written beside their place, forced to disk, renamed; failures explained."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from featcache.errors import CacheError

PARTIAL = ".partial"
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}


def partial(path: Path) -> Path:
    """Where `path` is written before it is complete."""
    return path.with_name(path.name + PARTIAL)


def write_atomic(path: Path, data: bytes) -> None:
    """Write a small file so that it is either absent, as it was before, or complete; durable on return."""
    with open(partial(path), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial(path), path)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Force the names in a folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_parents(path: Path, top: Path) -> None:
    """Force the names on the way from `path` up to the folder `top` to disk."""
    for folder in path.parents:
        sync_directory(folder)
        if folder == top:
            return


def sync_tree(top: Path) -> None:
    """Force every file and every name below `top` to disk."""
    for folder, _, names in os.walk(top):
        for name in names:
            with open(Path(folder, name), "rb") as file:
                os.fsync(file.fileno())
        sync_directory(Path(folder))


@contextmanager
def explained(path: Path, needed: int = 0) -> Iterator[None]:
    """Turn an OSError inside into a CacheError that says what to do; `needed`: bytes still to write."""
    try:
        yield
    except OSError as error:
        raise _explain(error, path, needed) from error


def _explain(error: OSError, path: Path, needed: int) -> CacheError:
    reason = f"{error.strerror or error} ({error.filename or path})"
    if error.errno in _FULL:
        folder = next(folder for folder in (path, *path.parents) if folder.exists())
        free = shutil.disk_usage(folder).free
        return CacheError(
            f"the disk (or a quota or file-size limit) is full while writing {path}",
            got=f"{reason}; {free:,} bytes free",
            expected=f"room for {needed:,} more bytes for this shard" if needed else None,
            hint="free some space and rerun the same command: it continues with the first missing shard",
        )
    if error.errno in _DENIED:
        return CacheError(f"cannot write {path}", got=reason, hint="choose a place you may write to (--out)")
    return CacheError(f"cannot write {path}", got=reason, hint="check the path given to --out")
