"""Progress bars of long work: on a terminal and in notebooks, silent elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Progress(Protocol):
    """Receives counts of finished work; tqdm is one."""

    def update(self, n: int) -> object:
        """Add `n` finished units of work."""


class MakeProgress(Protocol):
    """Makes the progress of one piece of work."""

    def __call__(self, title: str, total: int, unit: str = "samples") -> AbstractContextManager[Progress]:
        """Begin work of `total` units."""


@contextmanager
def bar(title: str, total: int, unit: str = "samples") -> Iterator[Progress]:
    """Show a bar on stderr with rate and time left, on a terminal and in a notebook only."""
    from tqdm import tqdm

    # A notebook shows what goes to stderr, though that is no terminal; None leaves the check to tqdm.
    disable = False if "ipykernel" in sys.modules else None
    with tqdm(total=total, desc=title, unit=f" {unit}", disable=disable, smoothing=0.05) as shown:
        yield shown


@contextmanager
def silent(title: str, total: int, unit: str = "samples") -> Iterator[Progress]:
    """Show nothing."""
    yield _Silent()


class _Silent:
    def update(self, n: int) -> None:
        """Ignore `n`."""
