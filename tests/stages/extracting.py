"""Extractions in processes of their own.

python extracting.py kill MODEL FOLDER KILLS
    Extract `digits` into FOLDER/0.zarr, killed that often; where it is done before, FOLDER/1.zarr follows.
    Prints how many units each killed process left behind.
python extracting.py overwrite MODEL FOLDER KILLS
    The same over other caches, which lie there.
python extracting.py peak MODEL FOLDER ROWS ...
    Extract so many rows of the images in FOLDER, once for each number; prints the peak memory in bytes.
"""

from __future__ import annotations

import os
import random
import resource
import signal
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import torchvision.transforms.v2  # noqa: F401  (these two: a killed process shall not spend its life importing)
import zarr  # noqa: F401

from featcache import encoders
from featcache.extraction.options import ExtractOptions
from featcache.sources import open_source
from featcache.stages.extract import extract, run_extraction


def extract_some(model: str, out: Path) -> None:
    """20 rows of each split in 2 views; a batch is a row, a shard two."""
    overwrite = sys.argv[1] == "overwrite"
    options = {"views": "weak=1", "limit": 20, "shard_size": "2", "batch_size": 2, "num_workers": 0}
    extract("digits", model, out, overwrite=overwrite, **options)


def kill(model: str, folder: Path, kills: int) -> None:
    """Half of the moments are soon after the start, the others soon after a unit was committed."""
    open_source("digits")
    encoders.load(model)
    moments, number = random.Random(0), 0
    while kills:
        out = folder / f"{number}.zarr"
        child = _fork(model, out)
        before = _committed(out)
        late = time.monotonic() + 20
        while kills % 2 and _committed(out) == before and time.monotonic() < late:
            time.sleep(0.002)
        time.sleep(moments.uniform(0, 0.15 if kills % 2 else 0.4))
        os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        if status == signal.SIGKILL:
            kills -= 1
            print(_committed(out))
        elif status == 0:
            number += 1
        else:
            raise SystemExit(f"the extraction ended by itself, with {status}")
    os.environ["PAUSE"] = "0"
    extract_some(model, folder / f"{number}.zarr")


def _fork(model: str, out: Path) -> int:
    child = os.fork()
    if not child:
        extract_some(model, out)
        os._exit(0)
    return child


def _committed(out: Path) -> int:
    written_at = out.with_name(f"{out.name}.partial") if sys.argv[1] == "overwrite" else out
    return len(list(written_at.glob("*/status/ledger/*.*.json")))


class Memory:
    """A progress bar that looks at the memory instead. (`ru_maxrss` never falls, and imports need most.)"""

    def __init__(self) -> None:
        self.peak = 0

    def update(self, n: int) -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        self.peak = max(self.peak, pages * resource.getpagesize())


def peak(model: str, folder: Path, rows: list[int]) -> None:
    options = {"split": "train", "shard_size": "64", "batch_size": 32, "num_workers": 0}
    out = folder.with_name("c.zarr")
    for limit in rows:
        memory = Memory()
        run_extraction(
            folder,
            model,
            out,
            ExtractOptions(limit=limit, **options),
            overwrite=True,
            progress=lambda name, total, memory=memory: nullcontext(memory),
        )
        print(memory.peak)


if __name__ == "__main__":
    if sys.argv[1] in ("kill", "overwrite"):
        kill(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
    else:
        peak(sys.argv[2], Path(sys.argv[3]), [int(rows) for rows in sys.argv[4:]])
