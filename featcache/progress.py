"""Progress of long work: a bar on a terminal and in notebooks, a line a minute in a log."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, TextIO

LINE_SECONDS = 60.0
"""Time between two lines of a log."""


class Progress(Protocol):
    """Receives counts of finished work; tqdm is one."""

    def update(self, n: int) -> object:
        """Add `n` finished units of work."""


class MakeProgress(Protocol):
    """Function that makes the progress bar of one piece of work."""

    def __call__(self, title: str, total: int, unit: str = "samples") -> AbstractContextManager[Progress]:
        """Begin work of `total` units."""


@contextmanager
def bar(title: str, total: int, unit: str = "samples") -> Iterator[Progress]:
    """Show progress on stderr: a bar with rate and remaining time on a terminal and in a notebook.

    Elsewhere, work that takes longer than a minute writes a line a minute, as `Lines` does. Nothing is shown
    where there is nothing to do.
    """
    notebook = "ipykernel" in sys.modules  # which shows stderr, though that is no terminal there
    if total <= 0:
        yield _Silent()
    elif notebook or sys.stderr.isatty():
        from tqdm import tqdm

        # tqdm takes a terminal that does not tell its size for one of size 0.
        size = {} if notebook or _has_size(sys.stderr) else {"ncols": 80, "nrows": 24}
        with tqdm(total=total, desc=title, unit=f" {unit}", smoothing=0.05, **size) as shown:
            yield shown
    else:
        yield Lines(title, total, unit)


@contextmanager
def silent(title: str, total: int, unit: str = "samples") -> Iterator[Progress]:
    """Show nothing."""
    yield _Silent()


class Lines:
    """Progress as lines of text, one each `every` seconds at most, the first after that time.

    >>> seconds = iter([0.0, 30.0, 60.0, 70.0])
    >>> lines = Lines("train", 50_000, "samples", write=print, every=60, clock=lambda: next(seconds))
    >>> for done in (6_000, 6_400, 2_000):
    ...     lines.update(done)
    train: 12,400 of 50,000 samples, 207/s, about 3 min left
    """

    def __init__(
        self,
        title: str,
        total: int,
        unit: str,
        *,
        write: Callable[[str], object] | None = None,
        every: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._title, self._total, self._unit = title, total, unit
        self._write, self._clock = write or _to_stderr, clock
        self._every = LINE_SECONDS if every is None else every
        self._done, self._last_done, self._last = 0, 0, clock()

    def update(self, n: int) -> None:
        """Add `n` finished units, and write a line if it is time."""
        self._done += n
        now = self._clock()
        if now - self._last < self._every:
            return
        rate = (self._done - self._last_done) / max(now - self._last, 1e-9)
        left = f", about {human_time((self._total - self._done) / rate)} left" if rate else ""
        counts = f"{self._done:,} of {self._total:,} {self._unit}"
        self._write(f"{self._title}: {counts}, {_rate(rate)}/s{left}")
        self._last, self._last_done = now, self._done


def human_time(seconds: float) -> str:
    """Return a time with two digits or so, in seconds, minutes, hours or days.

    >>> [human_time(seconds) for seconds in (0.26, 26.4, 170, 3457, 9000, 200_000)]
    ['0.3 s', '26 s', '3 min', '58 min', '2.5 h', '2.3 days']
    """
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    if seconds < 5970:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.1f} days"


def _rate(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _has_size(stream: TextIO) -> bool:
    """Return True for a terminal that tells its size."""
    try:
        return os.get_terminal_size(stream.fileno()).columns > 0
    except (OSError, ValueError, AttributeError):
        return False


class _Silent:
    def update(self, n: int) -> None:
        """Ignore `n`."""
