"""Progress bars of long commands, with rate and remaining time; silent without a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Progress(Protocol):
    """Receives counts of finished samples; tqdm is one."""

    def update(self, n: int) -> object:
        """Add `n` finished samples."""


MakeProgress = Callable[[str, int], AbstractContextManager[Progress]]
"""Function of a title and a number of samples that makes a progress bar."""


@contextmanager
def bar(name: str, total: int) -> Iterator[Progress]:
    """Show a bar on stderr; silent if stderr is not a terminal."""
    from tqdm import tqdm

    with tqdm(total=total, desc=name, unit=" samples", disable=None, smoothing=0.05) as shown:
        yield shown


@contextmanager
def silent(name: str, total: int) -> Iterator[Progress]:
    """Show nothing."""
    yield _Silent()


class _Silent:
    def update(self, n: int) -> None:
        """Ignore `n`."""
