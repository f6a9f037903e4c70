"""One writer per cache: a lock file beside it that names its holder."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import filelock

from featcache import files
from featcache.errors import CacheError

_OWNER = "featcache"


class WriterLock:
    """Holds `PATH.lock` until released; a killed holder's lock is free again."""

    def __init__(self, path: Path) -> None:
        """Raises CacheError, naming the holder, where another writer is at work."""
        self._path = path.with_name(path.name + ".lock")
        self._lock = filelock.FileLock(self._path, thread_local=False)
        with files.explained(self._path, error=CacheError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._lock.acquire(blocking=False)
            except filelock.Timeout:
                raise CacheError(
                    f"another process is writing {path}",
                    got=self._holder() or None,
                    hint="wait for it to end; the lock of a killed process frees itself",
                ) from None
            # Where the file system has no locks, filelock writes its own marker, which must stay as it is.
            self._ours = self._holder() == "" or self._holder().startswith(_OWNER)
            if self._ours:
                self._path.write_text(f"{_OWNER} process {os.getpid()} on {socket.gethostname()}\n")

    def release(self) -> None:
        """Let the next writer in, and remove the lock file."""
        if self._ours:
            # Before the release, so that nobody's lock but ours is removed; filelock notices and tries again.
            self._path.unlink(missing_ok=True)
        self._lock.release()

    def _holder(self) -> str:
        return " ".join(self._path.read_text().split())
