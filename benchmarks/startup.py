"""Measure start-up times: new processes, in turns.

    python -m benchmarks.startup [--smoke] [--json FILE]

The bound of `featcache --help` and `import featcache` is importing click alone. The bound of a whole
`featcache train` of one step, the shortest training, is importing torch alone. One more contestant imports
torch and takes one step of AdamW, which imports torch's compiler even if nothing is compiled.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import common

CLICK, TORCH = "import click", "import torch"
ADAMW = (
    "import torch; x = torch.zeros(1, requires_grad=True); x.sum().backward(); torch.optim.AdamW([x]).step()"
)
COMMAND = "import sys; from featcache.cli import main; main(sys.argv[1:])"
"""What the installed `featcache` runs."""


def process(*arguments: str) -> Callable[[], float]:
    """Return a function that runs Python with these arguments and returns ms."""

    def run() -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
        return 1000 * (time.perf_counter() - start)

    return run


def first_step(folder: Path) -> Callable[[], float]:
    """Return a function that runs `featcache train` of one step into a new run, and returns ms."""
    cache = folder / "cache.zarr"
    common.write_cache(cache, {"train": 64, "test": 32}, common.random_tokens(50, 384))
    options = ("--objective", "supervised", "--labels-per-class", "1", "--set", "optim.steps=1")

    def run() -> float:
        out = tempfile.mkdtemp(dir=folder)
        return process("-c", COMMAND, "train", str(cache), *options, "--out", out)()

    return run


def main() -> None:
    """Print two Markdown tables, and write their rows as JSON where asked."""
    args = common.arguments(__doc__).parse_args()
    rounds = 1 if args.smoke else 11
    light = {
        CLICK: process("-c", CLICK),
        "python alone": process("-c", ""),
        "import featcache": process("-c", "import featcache"),
        "featcache --help": process("-c", COMMAND, "--help"),
    }
    with tempfile.TemporaryDirectory(dir=".") as folder:
        heavy = {
            TORCH: process("-c", TORCH),
            "torch alone, one step of AdamW": process("-c", ADAMW),
            "featcache train, one step": first_step(Path(folder)),
        }
        found = common.interleaved(light | heavy, rounds)
    common.report(
        [
            common.Table("without torch", "ms", CLICK, {name: found[name] for name in light}),
            common.Table("with torch", "ms", TORCH, {name: found[name] for name in heavy}),
        ],
        args.json,
    )


if __name__ == "__main__":
    main()
