"""The commands that the torture interrupts, and how to tell that one of them has done all its work."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import featcache as fc

OF_A_RUN = {"seconds", "seconds_in_all", "command", "files", "seal"}
"""Differs between two runs of the same training: times, the command, and digests of what holds them."""
Arguments = tuple[object, ...]


@dataclass(frozen=True)
class Command:
    """A command that writes to a place, and goes on there when it is repeated."""

    arguments: Callable[[Path], Arguments]
    before: Path | None = None
    """What lies there at first."""
    content: Callable[[Path], object] = lambda out: files(out)
    """What two uninterrupted runs have in common."""


def files(out: Path) -> object:
    """Return every file below a folder with its bytes, or the bytes of a file."""
    if out.is_file():
        return out.read_bytes()
    return {
        str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()
    }


def run_files(out: Path) -> object:
    """Return the files of a run; of the result without its times, and of events that there are some."""
    found: dict[str, Any] = {}
    for path in sorted(out.iterdir()):
        if ".tfevents." in path.name:
            found["events"] = path.stat().st_size > 0
        elif path.name in ("result.json", "environment.json"):
            found[path.name] = timeless(json.loads(path.read_bytes()))
        else:
            found[path.name] = path.read_bytes()
    return found


def timeless(value: Any) -> Any:
    """Return JSON without what belongs to one run."""
    if isinstance(value, dict):
        return {name: timeless(item) for name, item in value.items() if name not in OF_A_RUN}
    return value


def extraction(out: Path) -> Arguments:
    """2 splits of 10 rows in 2 views, and 10 units each."""
    what = ("extract", "digits", "--model", "open_clip:glyph-clip", "--limit", 10, "--views", "weak=1")
    how = ("--tokens", "grid:2x2", "--shard-size", 2, "--batch-size", 2, "--num-workers", 0)
    return (*what, *how, "--out", out)


def other_extraction(out: Path) -> Arguments:
    """A cache with other tokens and another split, to be replaced."""
    what = ("extract", "digits", "--model", "open_clip:glyph-clip", "--limit", 4, "--split", "train")
    return (*what, "--tokens", "cls", "--num-workers", 0, "--out", out)


def training(cache: Path, out: Path) -> Arguments:
    """40 steps and 8 checkpoints."""
    options = {
        "cv": "off",
        "optim.steps": 40,
        "optim.batch_size": 6,
        "log.every": 1,
        "log.checkpoint_every": 5,
        "projector.heads": 2,
    }
    pairs = [part for name, value in options.items() for part in ("--set", f"{name}={value}")]
    how = ("--objective", "supervised", "--labels-per-class", 1, "--device", "cpu", *pairs)
    return ("train", cache, *how, "--out", out)


def commands(folder: Path) -> Mapping[str, Command]:
    """Return commands that write, over what lies in a folder that `prepare` has filled."""
    cache, run = folder / "whole.zarr", folder / "run"
    labels = ("--from", folder / "labels.csv")
    return {
        "extract": Command(extraction),
        "extract --num-workers 2": Command(lambda out: (*extraction(out), "--num-workers", 2)),
        "extract --overwrite": Command(lambda out: (*extraction(out), "--overwrite"), folder / "other.zarr"),
        "train": Command(lambda out: (*training(cache, out), "--resume"), content=run_files),
        "label": Command(lambda out: ("label", out, *labels), cache),
        "export --to h5": Command(
            lambda out: ("export", cache, "--to", "h5", "--out", out / "e.h5"), folder / "empty"
        ),
        "export --to npy": Command(lambda out: ("export", cache, "--to", "npy", "--out", out)),
        "import": Command(lambda out: ("import", folder / "export.h5", "--out", out)),
        "predict": Command(lambda out: ("predict", run, cache, "--out", out / "table.csv"), folder / "empty"),
        "repair": Command(lambda out: ("repair", out), folder / "damaged.zarr"),
    }


def prepare(run: Callable[..., object], folder: Path) -> None:
    """Make what the commands start from; `run` runs one."""
    cache = folder / "whole.zarr"
    run(*extraction(cache))
    run(*other_extraction(folder / "other.zarr"))
    run(*training(cache, folder / "run"))
    run("export", cache, "--to", "h5", "--out", folder / "export.h5")
    (folder / "empty").mkdir()
    ids = fc.Cache.open(cache)["train"].ids
    table = "".join(f"{name},{'even' if row % 2 else 'odd'}\n" for row, name in enumerate(ids))
    (folder / "labels.csv").write_text(f"id,label\n{table}")
    shutil.copytree(cache, folder / "damaged.zarr")
    for name in ("train/tokens/c/1/1/0/0", "test/pooled/c/2/0/0", "test/zarr.json"):
        damaged = folder / "damaged.zarr" / name
        damaged.write_bytes(bytes(damaged.stat().st_size))


def begin(command: Command, out: Path) -> None:
    """Put at `out` what the command starts from."""
    for path in out.parent.glob(f"{out.name}*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    if command.before is not None:
        shutil.copytree(command.before, out)
