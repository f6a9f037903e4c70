"""A process that has imported everything, and forks a child for each command.

python forge.py, and then one line of JSON for each job on its standard input:

    {"arguments": [...], "output": FOLDER, "kill": SECONDS, "fail": [BELOW, NUMBER, ERRNO, FOREVER]}

`arguments` are those of `featcache`; `kill` and `fail` may be null. It answers with one line: exit code
(negative: the signal), seconds, the peak of memory in bytes, processes that outlived the child, and where
faults are counted, their number and which one failed. What the child prints is in FOLDER/out and FOLDER/err.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import importlib
import json
import os
import pkgutil
import resource
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch
import torchvision.transforms.v2  # noqa: F401
import zarr  # noqa: F401

import featcache
from featcache import encoders
from featcache.cli import main
from featcache.sources import open_source

GRACE = 30.0
"""Seconds in which the children of a killed process have to end; one may still be importing."""


def child(job: dict[str, Any]) -> None:
    """Run one command, and end as a process does, without clearing away what was imported."""
    folder = Path(job["output"])
    os.setpgid(0, 0)
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    faults = ctypes.CDLL(None) if job["fail"] else None
    if faults:
        below, nth, error, forever = job["fail"]
        faults.fail_at(os.fsencode(below), ctypes.c_long(nth), error, int(forever))
    code = 0
    try:
        main(job["arguments"])
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    if faults:
        faults.failed.restype = ctypes.c_char_p
        failed = os.fsdecode(faults.failed())
        seen = faults.changes()
        (folder / "faults").write_text(json.dumps({"changes": seen, "failed": failed}))
    threading._shutdown()
    atexit._run_exitfuncs()
    os._exit(code)


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Fork a child, kill it in time, and say how it ended."""
    begun = time.monotonic()
    if (pid := os.fork()) == 0:
        child(job)
    if job["kill"] is not None:
        time.sleep(job["kill"])
        os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    said: dict[str, Any] = {
        "code": os.waitstatus_to_exitcode(status),
        "seconds": time.monotonic() - begun,
        "peak": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024,
        "stray": stray(pid),
    }
    faults = Path(job["output"]) / "faults"
    if job["fail"] and faults.exists():
        said |= json.loads(faults.read_text())
        faults.unlink()
    return said


def stray(group: int) -> int:
    """Return how many processes of a group do not end in time; kill them."""
    late = time.monotonic() + GRACE
    while time.monotonic() < late:
        if not (left := members(group)):
            return 0
        time.sleep(0.02)
    os.killpg(group, signal.SIGKILL)
    return len(left)


def members(group: int) -> list[int]:
    """Return the processes of a group that run; Linux only."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            state, _, of = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
        except (OSError, ValueError):
            continue
        if int(of) == group and state != "Z":
            found.append(int(entry.name))
    return found


def import_everything() -> None:
    """Import what a command may need, as a child shall not spend its life importing."""
    for module in pkgutil.walk_packages(featcache.__path__, "featcache."):
        with contextlib.suppress(ImportError):  # of an extra
            importlib.import_module(module.name)
    open_source("digits")
    encoders.load("open_clip:glyph-clip")


if __name__ == "__main__":
    torch.set_num_threads(1)
    import_everything()
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), flush=True)
