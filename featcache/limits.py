"""Tell a limit of this machine from a fault of a sample: the one ends a command, the other costs a row."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from featcache.errors import FeatcacheError, LimitError, option


def met(error: BaseException) -> str | None:
    """Return the limit that an error tells of; None for an error that is none of the machine's.

    >>> met(OSError(errno.ENFILE, "Too many open files")), met(RuntimeError("can't start new thread"))
    ('open files', 'processes and threads')
    >>> met(MemoryError()), met(OSError(errno.ENOENT, "No such file")), met(KeyError("memory"))
    ('memory', None, None)
    """
    if isinstance(error, MemoryError):
        return "memory"
    if isinstance(error, OSError):
        return _BY_NUMBER.get(error.errno or 0)
    if isinstance(error, RuntimeError):  # torch and threading have no type of their own for it
        return next((limit for said, limit in _BY_TEXT.items() if said in str(error)), None)
    return None


def reached(limit: str, got: str) -> LimitError:
    """Return the error for a limit that `met` found, with what was found there."""
    return LimitError(
        f"a limit of this machine was met: {limit}",
        got=got,
        expected=_ENOUGH[limit],
        hint=f"raise the limit, or rerun with a smaller {option('num_workers')} or {option('batch_size')}; "
        "it continues",
    )


def require_none(error: Exception, got: object) -> None:
    """Raise LimitError if an error tells of a limit; `got` is what was read."""
    if limit := met(error):
        raise reached(limit, str(got)) from error


@contextmanager
def explained() -> Iterator[None]:
    """Raise every error in the block that tells of a limit as a LimitError that names it."""
    try:
        yield
    except FeatcacheError:
        raise
    except Exception as error:
        if (limit := met(error)) is None:
            raise
        raise reached(limit, f"{type(error).__name__}: {error}".splitlines()[0]) from error


_BY_NUMBER = {
    errno.EMFILE: "open files",
    errno.ENFILE: "open files",
    errno.EAGAIN: "processes and threads",
    errno.ENOMEM: "memory",
    errno.ENOBUFS: "memory",
}
_BY_TEXT = {
    "can't start new thread": "processes and threads",
    "can't allocate memory": "memory",
    "not enough memory": "memory",
    "Cannot allocate memory": "memory",
}
_ENOUGH = {
    "open files": "room for a few hundred (`ulimit -n`)",
    "processes and threads": "room for a few more (`ulimit -u`, or the pids of a container)",
    "memory": f"enough for {option('num_workers')} times {option('batch_size')} samples (`ulimit -v`)",
}
