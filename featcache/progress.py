"""Progress bars of long work: shown on a terminal and in notebooks, silent elsewhere."""

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
    """Function that makes the progress bar of one piece of work."""

    def __call__(self, title: str, total: int, unit: str = "samples") -> AbstractContextManager[Progress]:
        """Begin work of `total` units."""


@contextmanager
def bar(title: str, total: int, unit: str = "samples") -> Iterator[Progress]:
    """Show a bar with rate and remaining time on stderr, if it is a terminal or in a notebook."""
    from tqdm import tqdm

    # A notebook shows stderr, which is no terminal there; with None, tqdm checks for a terminal.
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
