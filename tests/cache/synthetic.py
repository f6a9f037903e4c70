"""A small cache of made-up features, the same every time; as a program, written in a process of its own.

python synthetic.py OUT [--rows N] [--shard-size S] [--pause SECONDS] [--user ID] [--file-limit BYTES]
                        [--overwrite] [--units NUMBER ...] [--kill-at EVENT ...]
"""

from __future__ import annotations

import argparse
import os
import resource
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr  # noqa: F401  (its import must not count as part of a killed run)
from numpy.typing import NDArray

from featcache.cache.labels import LabelTable
from featcache.cache.reader import CacheReader
from featcache.cache.spec import CacheSpec, LayoutSpec, Shapes, SplitSpec, TokenArray
from featcache.cache.writer import CacheWriter, SplitWriter
from featcache.specs import EncoderSpec, ViewSpec

SHAPES = Shapes(
    layers=(
        TokenArray(layer=-1, tokens=5, dim=8, prefix=1, grid=(2, 2)),
        TokenArray(layer=-2, tokens=5, dim=6, prefix=1, grid=(2, 2)),
    ),
    pooled=7,
    mask=True,
)
ENCODER = EncoderSpec(
    name="synthetic", weights="0" * 64, modality="image", preprocess="none", norm="none", projection="none"
)
CLASSES = ("cat", "dog", "owl")
TEMPLATES = ("a photo of a {}.",)


def spec(**changes: Any) -> CacheSpec:
    """The identity of the synthetic cache, with some fields changed."""
    fields: dict[str, Any] = {
        "encoder": ENCODER,
        "layers": (-1, -2),
        "tokens": "all",
        "views": ViewSpec(weak=1, strong=1),
        "dtype": "float32",
    }
    return CacheSpec(**(fields | changes))


def values(view: int, start: int, stop: int, *row: int) -> NDArray[np.float32]:
    """(stop - start, *row) numbers that depend on the view and the row alone."""
    rows = [np.random.default_rng((view, at, *row)).standard_normal(row) for at in range(start, stop)]
    return np.stack(rows).astype(np.float32)


def batch(view: int, start: int, stop: int) -> dict[str, Any]:
    """Rows [start, stop) as `UnitWriter.append` takes them; row 3 has failed."""
    return {
        "tokens": {
            array.layer: values(view, start, stop, array.tokens, array.dim) for array in SHAPES.layers
        },
        "pooled": values(view, start, stop, SHAPES.pooled),
        "mask": values(view, start, stop, SHAPES.layers[0].tokens) > 0,
        "failed": {3: "truncated JPEG"} if start <= 3 < stop else {},
    }


def write(
    path: Path,
    *,
    rows: int = 14,
    shard_size: str = "6",
    batch_rows: int = 4,
    pause: float = 0,
    cache: CacheSpec | None = None,
    names: tuple[str, ...] = ("train",),
    overwrite: bool = False,
) -> None:
    """Write or continue the cache at `path`."""
    layout = LayoutSpec(shard_size=shard_size)
    with CacheWriter(
        path, cache or spec(), layout=layout, overwrite=overwrite, provenance={"command": "made up"}
    ) as writer:
        for name in names:
            ids, labels = [f"{name}/{row:04}.png" for row in range(rows)], np.arange(rows) % 3
            split = writer.split(name, SplitSpec(content=f"digest of {name}", rows=rows), ids, SHAPES)
            writer.label(LabelTable(CLASSES, {name: labels}))
            writer.class_text(np.eye(3, SHAPES.pooled, dtype=np.float32), CLASSES, TEMPLATES)
            for unit in split.missing():
                with split.begin(unit) as out:
                    for start in range(unit.start, unit.stop, batch_rows):
                        out.append(**batch(unit.view, start, min(start + batch_rows, unit.stop)))
                        time.sleep(pause)
                    out.commit()


def work(path: Path, numbers: Sequence[int]) -> None:
    """Write some units of the split `train`, as a worker does while another process holds the lock."""
    cache = CacheReader.open(path)
    with SplitWriter.open(cache, "train") as split:
        for number in numbers:
            unit = cache.split("train").units[number]
            with split.begin(unit) as out:
                out.append(**batch(unit.view, unit.start, unit.stop))
                out.commit()


def kill_at(event: int, path: Path) -> None:
    """Have this process killed, as by `kill -9`, before it opens, names or removes its `event`-th file."""
    seen = 0

    def count(name: str, arguments: tuple[object, ...]) -> None:
        nonlocal seen
        # `shutil.rmtree` gives names within an open folder.
        within = name in ("os.remove", "os.rmdir") and arguments[1] != -1
        named = name in ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir")
        if within or (named and str(arguments[0]).startswith(str(path))):
            seen += 1
            if seen == event:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)


def main() -> None:
    """Write as the command line says."""
    parser = argparse.ArgumentParser()
    parser.add_argument("path", type=Path)
    parser.add_argument("--rows", type=int, default=14)
    parser.add_argument("--shard-size", default="6")
    parser.add_argument("--pause", type=float, default=0)
    parser.add_argument("--overwrite", action="store_true")
    parser.add_argument("--units", type=int, nargs="*", default=[])
    parser.add_argument("--kill-at", type=int, nargs="*", default=[])
    parser.add_argument("--file-limit", type=int)
    parser.add_argument("--user", type=int)
    options = parser.parse_args()
    if options.user is not None:
        os.setuid(options.user)
    if options.file_limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (options.file_limit, options.file_limit))
    for event in options.kill_at:
        # One child per kill, forked before any thread runs, spares the imports.
        if (child := os.fork()) == 0:
            path = options.path.with_name(f"{options.path.stem}-{event}.zarr")
            kill_at(event, path)
            write(path, overwrite=options.overwrite)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print(event, os.waitstatus_to_exitcode(status), flush=True)
    if options.units:
        work(options.path, options.units)
    elif not options.kill_at:
        fields = ("rows", "shard_size", "pause", "overwrite")
        write(options.path, **{name: getattr(options, name) for name in fields})


if __name__ == "__main__":
    main()
