"""End the command line cleanly on signals: with the exit code of the shell, and without a traceback."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn


class Ended(BaseException):
    """A signal asked the process to end."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.code = 128 + number


@contextmanager
def ending_cleanly() -> Iterator[None]:
    """Raise Ended in the block at the first SIGINT, SIGTERM or SIGHUP; a second one ends the process at once.

    A shard that is truncated while it is mapped gives an error that names it, not a bus error. Signals that
    are ignored, as under nohup, stay ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [n for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if _is_heeded(n)]
    before = {number: signal.signal(number, _end) for number in numbers}
    try:
        with _explained_bus_error():
            yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _is_heeded(number: int) -> bool:
    return signal.getsignal(number) is not signal.SIG_IGN


def _end(number: int, frame: FrameType | None) -> NoReturn:
    signal.signal(number, _end_now)
    raise Ended(number)


def _end_now(number: int, frame: FrameType | None) -> NoReturn:
    os._exit(128 + number)


@contextmanager
def _explained_bus_error() -> Iterator[None]:
    """Handle SIGBUS below Python, whose own handlers run only once the faulting instruction is over."""
    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)
    libc, found = ctypes.CDLL(None), handler(_bus_error)
    libc.signal.restype, libc.signal.argtypes = ctypes.c_void_p, [ctypes.c_int, ctypes.c_void_p]
    before = libc.signal(signal.SIGBUS, ctypes.cast(found, ctypes.c_void_p))
    try:
        yield
    finally:
        libc.signal(signal.SIGBUS, before)


def _bus_error(number: Any) -> None:
    # Whatever happens here, the instruction that failed must not be tried again.
    try:
        found = ", ".join(_shrunk())
        lines = [
            "error: a file that is being read has been truncated, or its disk cannot be read",
            f"  got:      {found or 'a bus error'}",
            "  next:     `featcache repair CACHE` writes it again; repeat the command then",
        ]
        os.write(2, ("\n".join(lines) + "\n").encode(errors="backslashreplace"))
    finally:
        os._exit(1)


def _shrunk() -> list[str]:
    """Return the mapped files that are shorter than their map, as far as the system tells."""
    found = []
    with suppress(OSError), open("/proc/self/maps") as maps:
        for line in maps:
            area, _, offset, _, _, *name = line.split(maxsplit=5)
            if not name or not name[0].startswith("/"):
                continue
            start, stop = (int(address, 16) for address in area.split("-"))
            path = name[0].rstrip("\n")
            with suppress(OSError):
                pages = -(-os.stat(path).st_size // os.sysconf("SC_PAGE_SIZE")) * os.sysconf("SC_PAGE_SIZE")
                if pages < int(offset, 16) + stop - start:
                    found.append(path)
    return sorted(set(found))
