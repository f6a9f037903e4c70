"""Find the samples that kill the process that reads them: a child process reads them one by one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence

import cloudpickle

from featcache.errors import FeatcacheError
from featcache.extraction.feed import ViewDataset


def rows_that_kill(dataset: ViewDataset) -> dict[int, str]:
    """Return the rows that end a process that reads and transforms them, with the reason of each."""
    rows = [row for batch in dataset.batches for row in batch if row not in dataset.unreadable]
    found: dict[int, str] = {}
    while rows:
        last, status = _read(dataset, rows)
        if status == 0 or last is None:
            return found
        found[last] = f"reading it ends the process ({_named(status)})"
        rows = rows[rows.index(last) + 1 :]
    return found


def _read(dataset: ViewDataset, rows: Sequence[int]) -> tuple[int | None, int]:
    """Read rows in a child; return the last one that it began, and its exit status."""
    command = [sys.executable, "-m", __name__]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as child:
        said, _ = child.communicate(cloudpickle.dumps((dataset, rows)))
    began = said.split()
    return (int(began[-1]) if began else None), child.returncode


def _named(status: int) -> str:
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"exit status {status}"


def _main() -> None:
    """Say each row before it is read; what libraries print goes elsewhere."""
    said = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    dataset, rows = cloudpickle.loads(sys.stdin.buffer.read())
    for row in rows:
        print(row, file=said, flush=True)
        try:
            dataset.sample(row)
        except FeatcacheError:
            continue


if __name__ == "__main__":
    _main()
