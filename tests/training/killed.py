"""A training that is killed, as by `kill -9`, at a moment of its own choice, in a process of its own.

python killed.py REQUEST.json OUT MOMENT ...; a moment is `step:N` (just after step N is logged) or `rename:N`
(before the N-th checkpoint gets its name). Each is one run: OUT-0, OUT-1, ...; OUT is not interrupted.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

import torch

from featcache.stages.train import run_training
from featcache.training.request import TrainRequest


def die() -> None:
    """As `kill -9` does it: nothing is flushed, closed or caught."""
    os.kill(os.getpid(), signal.SIGKILL)


def train_until(request: TrainRequest, out: Path, moment: str) -> None:
    """Train, and be killed on the way."""
    kind, _, number = moment.partition(":")
    renamed = 0

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal renamed
        if event == "os.rename" and str(arguments[1]).endswith("checkpoint.safetensors"):
            renamed += 1
            if renamed == int(number):
                die()

    def logged(step: int, terms: Mapping[str, float]) -> None:
        if kind == "step" and step == int(number):
            die()

    if kind == "rename":
        sys.addaudithook(watch)
    run_training(request, out, device="cpu", watch=logged)


def main() -> None:
    """One child per moment, forked when all is imported and no other thread runs."""
    torch.set_num_threads(1)
    path, out, *moments = sys.argv[1:]
    fields = json.loads(Path(path).read_text())
    request = TrainRequest(**fields | {"cache": Path(fields["cache"])})
    run_training(request, Path(out), device="cpu")
    for number, moment in enumerate(moments):
        if (child := os.fork()) == 0:
            train_until(request, Path(f"{out}-{number}"), moment)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
