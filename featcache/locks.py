"""Lock a file, so that one process writes at a time: the file names its holder."""

from __future__ import annotations

import glob
import os
import re
import socket
import warnings
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

import filelock

from featcache.errors import FeatcacheError
from featcache.files import explained

WAIT = 600.0
"""Seconds to wait for a lock that is never held for long."""
_MARKER = re.compile(r"(\d+) ([^ ?]+)\S*( \d+)?$")
"""A process and its host, as filelock writes them; what follows a `?` tells containers of a host apart."""


class FileLock:
    """Holds a lock file until `release`, or until the process ends, however it ends.

    Raises `error` if another one holds it, for `wait` seconds: `what` says what that one does. The file is
    gone after `release`.
    """

    def __init__(self, path: Path, what: str, error: type[FeatcacheError], wait: float = 0.0) -> None:
        self._path, self._ours = path, False
        self._lock = filelock.FileLock(path, thread_local=False)
        with explained(path, error=error):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with warnings.catch_warnings(action="ignore"):  # that it writes markers instead, as below
                    self._lock.acquire(timeout=wait, poll_interval=0.1)
            except filelock.Timeout:
                raise error(f"another process is {what}", got=self._holder(), hint=self._hint()) from None
            # Where the file system has no locks, filelock writes its own marker, which must stay as it is.
            # It breaks that of a dead process of this machine, and none because of its age.
            self._ours = not getattr(self._lock, "is_lock_held_by_us", False)
            if self._ours:
                self._sign()

    @classmethod
    def of_all(cls, path: Path, what: str, error: type[FeatcacheError], part: str | None = None) -> Self:
        """Hold the lock of all parts; `part` is the one, such as 3-of-8, that has something to do for all.

        It waits for others of the same number of parts. Without a part, and for another number of parts,
        `error` is raised if any part is held.
        """
        lock = cls(path, what, error, 0.0 if part is None else WAIT)
        own = None if part is None else part.rpartition("-of-")[2]
        try:
            for other in sorted(path.parent.glob(f"{glob.escape(path.name)}.*-of-*")):
                _, _, parts = other.name.rpartition("-of-")
                if parts != own:
                    cls(other, what, error).release()  # raises if it is held
        except BaseException:
            lock.release()
            raise
        return lock

    def release(self) -> None:
        """Let the next one in, and remove the lock file."""
        if self._ours:
            # Before the release, so that nobody's lock but ours is removed; filelock notices and tries again.
            self._path.unlink(missing_ok=True)
        self._lock.release()

    def _sign(self) -> None:
        since = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
        text = f"featcache process {os.getpid()} on {socket.gethostname()}, since {since}\n"
        try:
            self._path.write_text(text, encoding="utf-8")
        except OSError:  # the disk is full
            self.release()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _holder(self) -> str | None:
        text = self._text()
        marker = _MARKER.match(text)
        return f"process {marker[1]} on {marker[2]}" if marker else text or None

    def _hint(self) -> str:
        if _MARKER.match(self._text()):
            return f"wait until it ends; if it was killed, and on another machine, delete {self._path}"
        return "wait until it ends; the lock of a killed process is released by itself"

    def _text(self) -> str:
        try:
            return " ".join(self._path.read_text(encoding="utf-8", errors="replace").split())
        except FileNotFoundError:  # released in the meantime
            return ""
