"""Make `eab5498.tar.gz`: caches, runs, predictions and a study, as the code of commit eab5498 wrote them.

    cd CHECKOUT_OF_eab5498 && PYTHONPATH=. python .../tests/compat/make.py

Every command runs in an empty folder, with relative paths. Two extractions and two trainings are killed with
SIGKILL at a chosen write. The archive holds:

- `main`, `replay`, `int8`, `glyph`: finished caches; `main-killed`, `int8-killed`: begun, and killed;
- `runs/NAME`: finished runs; `runs/NAME-killed`: the same training, killed between two checkpoints;
- `predictions/NAME.csv`: what the finished run predicts for its cache;
- `study.toml`, `study`: a small pipeline and what it wrote;
- `digests.json`: SHA-256 of the values that the old code reads from each finished cache.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import signal
import sys
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

HERE = Path(__file__).parent
ARCHIVE = HERE / "eab5498.tar.gz"
MODEL = ["--model", "python:exact.py:build"]
SMALL = ["--limit", "24", "--shard-size", "6", "--batch-size", "6", "--num-workers", "0", "--device", "cpu"]
VIEWS = ["--views", "weak=1,strong=1,flip=0"]
OPTIM = ["optim.steps=12", "optim.batch_size=6", "optim.lr=0.01", "log.every=1", "log.checkpoint_every=4"]
CACHES = {
    "main": [*MODEL, *VIEWS, "--dtype", "float16"],
    "replay": [*MODEL, *VIEWS, "--dtype", "float16", "--limit", "16"],
    "int8": [*MODEL, *VIEWS, "--dtype", "int8"],
    "glyph": ["--model", "open_clip:glyph-clip", "--tokens", "pooled"],
}
REPLAY = ["data.source=replay", "data.source_ratio=0.5"]
STEPS = [*OPTIM, "projector.heads=2"]
RUNS = {
    "linear": ["main", "linear", "1"],
    "zero_shot": ["glyph", "zero_shot", "1"],
    "twinturbo": ["main", "twinturbo", "2", *STEPS, "optim.ema=0.5", "cv=2"],
    "supervised": ["main", "supervised", "2", *STEPS],
    "unsupervised": ["main", "unsupervised", "2", *STEPS, *REPLAY],
}
KILLED_CACHES, KILLED_RUNS = ("main", "int8"), ("supervised", "unsupervised")
UNITS, STEP = 7, 7
STUDY = """[extract.letters]
source = "digits"
model = "python:exact.py:build"
views = { weak = 1, strong = 1, flip = 0 }
limit = 24
num_workers = 0

[train]
objectives = ["linear", "unsupervised"]
controls = false
labels_per_class = [1]
seeds = [0, 1]

[options]
optim = { steps = 4, batch_size = 6 }
projector = { heads = 2 }
data = { source = "replay" }
"""


def digests(cache: Any) -> dict[str, str]:
    """SHA-256 of ids, labels and every view of every array of an opened cache, by split and name."""
    found = {}
    for name in cache.split_names:
        split = cache.split(name)
        parts = {"ids": "\n".join(split.ids).encode(), "labels": split.labels.tobytes()}
        for array in split.arrays:
            for number, view in enumerate(split.views):
                values = split.array(array).gather(np.arange(split.rows), number)
                parts[f"{array} {view}"] = np.ascontiguousarray(values).tobytes()
        found |= {f"{name} {part}": hashlib.sha256(data).hexdigest() for part, data in parts.items()}
    return found


def read_all() -> None:
    """Write digests.json: `digests` of every finished cache, as the old code reads it."""
    from featcache.cache.reader import Cache

    content = {name: digests(Cache.open(name)) for name in CACHES}
    Path("digests.json").write_text(json.dumps(content, indent=1))


def command(*arguments: str, prepare: Callable[[], None] = lambda: None, code: int = 0) -> None:
    """Run one featcache command in a process of its own, and check how it ends."""
    child = os.fork()
    if not child:
        from featcache.cli import main

        sys.argv = ["featcache", *arguments]
        platform.platform = lambda *_: "Linux"  # a run records it, and this machine is of no interest
        prepare()
        try:
            main()
        except SystemExit as ended:
            os._exit(int(ended.code or 0))
        finally:
            os._exit(1)  # the folder is the parent's to remove
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == code, (arguments, status)


def die() -> None:
    """As `kill -9` does it: nothing is flushed, closed or caught."""
    os.kill(os.getpid(), signal.SIGKILL)


def die_at_unit() -> None:
    """Die before the ledger entry of unit number `UNITS` gets its name."""
    seen = 0

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal seen
        if event == "os.rename" and "/ledger/" in str(arguments[1]):
            seen += 1
            if seen == UNITS:
                die()

    sys.addaudithook(watch)


def die_at_step() -> None:
    """Die as soon as the metrics of step number `STEP` are written."""
    from featcache.runs.run import MetricLog

    write = MetricLog.__call__

    def write_and_die(self: MetricLog, step: int, terms: dict[str, float]) -> None:
        write(self, step, terms)
        if step == STEP:
            die()

    MetricLog.__call__ = write_and_die


def train(name: str, out: str) -> list[str]:
    """The arguments of `featcache train` for a run."""
    cache, objective, labels, *options = RUNS[name]
    sets: Sequence[str] = [part for option in options for part in ("--set", option)]
    fixed = ["--labels-per-class", labels, "--seed", "1", "--device", "cpu", "--out", f"runs/{out}"]
    return ["train", cache, "--objective", objective, *fixed, *sets]


def make() -> None:
    """Write everything below the current folder."""
    Path("runs").mkdir()
    Path("predictions").mkdir()
    shutil.copy(HERE / "exact.py", "exact.py")
    for name, options in CACHES.items():
        command("extract", "digits", *SMALL, *options, "--out", name)
        if name in KILLED_CACHES:
            arguments = ["extract", "digits", *SMALL, *options, "--out", f"{name}-killed"]
            command(*arguments, prepare=die_at_unit, code=-signal.SIGKILL)
    for name, (cache, *_) in RUNS.items():
        command(*train(name, name))
        if name in KILLED_RUNS:
            command(*train(name, f"{name}-killed"), prepare=die_at_step, code=-signal.SIGKILL)
        command("predict", f"runs/{name}", cache, "--device", "cpu", "--out", f"predictions/{name}.csv")
    Path("study.toml").write_text(STUDY)
    command("run", "study.toml", "--device", "cpu", "--out", "study")
    for picture in Path("study").glob("*.png"):
        picture.unlink()
    read_all()


def anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """The same file, of nobody and of no time."""
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    return member


def main() -> None:
    """Make all in a temporary folder, and pack it."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        make()
        with tarfile.open(ARCHIVE, "w:gz") as archive:
            for path in sorted(Path().iterdir()):
                archive.add(path, filter=anonymous)
        os.chdir(HERE)


if __name__ == "__main__":
    main()
