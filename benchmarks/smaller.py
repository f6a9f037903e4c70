"""Measure what int8, pooled grids and token subsets save, and how they change accuracy.

    python -m benchmarks.smaller [--smoke] [--json FILE]

The data are the bundled digits (real data) with glyph-clip. Bytes are those of all arrays of a sample.
Extraction is `featcache.extract` of all data, with loading the model and, for int8, the pilot. The loader
reads from files in the page cache. A step is one of twinturbo on a resident cache. Accuracy is that on the
test split with two labels a class; its difference to the bound is paired by label draw. The bound is float16
with all tokens. The last table shows all results side by side.
"""

from __future__ import annotations

import functools
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean, median
from typing import NamedTuple

from benchmarks import common
from benchmarks.train import GLYPH_CLIP, URATIO, Learner
from featcache.cache.reader import CacheReader
from featcache.devices import resolve
from featcache.extraction.options import ExtractOptions
from featcache.loading.loader import Loader
from featcache.loading.store import FeatureStore, Residency, reside
from featcache.results.statistics import paired
from featcache.stages.extract import run_extraction
from featcache.stages.train import run_training
from featcache.training.request import TrainRequest

BOUND = "float16"
BATCH = 32
OBJECTIVES = ("supervised", "twinturbo")


class Variant(NamedTuple):
    """What a cache is extracted with, and the share of its tokens that a step sees."""

    dtype: str = "float16"
    tokens: str = "all"
    share: float = 1.0

    @property
    def cache(self) -> str:
        """A name for the cache, which those that differ in the share have in common."""
        return f"{self.dtype}-{self.tokens.replace(':', '')}.zarr"


VARIANTS = {
    BOUND: Variant(),
    "int8": Variant("int8"),
    "grid:4x4": Variant(tokens="grid:4x4"),
    "int8, grid:4x4": Variant("int8", "grid:4x4"),
    "grid:2x2": Variant(tokens="grid:2x2"),
    "pooled": Variant(tokens="pooled"),
    "token_subset=0.5": Variant(share=0.5),
    "token_subset=0.25": Variant(share=0.25),
}
OWN_CACHE = {name: variant for name, variant in VARIANTS.items() if variant.share == 1}


class Size(NamedTuple):
    """The amount of measurements."""

    rounds: int
    batches: int
    """Read, or trained on, in a round."""
    draws: int
    steps: int
    limit: int | None = None


FULL, SMOKE = Size(3, 10, 5, 60), Size(1, 2, 2, 3, limit=60)


class Bench:
    """The caches in one folder, and their measurements."""

    def __init__(self, folder: Path, size: Size) -> None:
        self.folder, self.size, self.device = folder, size, resolve("auto")

    def extract(self, variant: Variant) -> float:
        """Extract the caches of a variant; return ms/sample."""
        options = ExtractOptions.of(
            {"tokens": variant.tokens, "dtype": variant.dtype, "limit": self.size.limit, "num_workers": 0}
        )
        start = time.perf_counter()
        summaries = run_extraction("digits", GLYPH_CLIP, self.folder / variant.cache, options, overwrite=True)
        return 1000 * (time.perf_counter() - start) / sum(summary.rows for summary in summaries.values())

    def nbytes(self, variant: Variant) -> float:
        """Return kB/sample on disk."""
        split = CacheReader.open(self.folder / variant.cache).split("train")
        return sum(split.array(name).nbytes for name in split.arrays) / split.rows / 1000

    def loader(self, variant: Variant, residency: Residency) -> Loader:
        """Make the loader of random batches of a cache."""
        cache = CacheReader.open(self.folder / variant.cache)
        store = FeatureStore.open(cache, "train")
        reside(store, residency, self.device)
        return common.both_streams(store, BATCH, URATIO, self.device, variant.share)

    def reading(self, variant: Variant) -> Callable[[], float]:
        """Return a function that measures reading, in samples/s."""
        loader, batches = self.loader(variant, "stream"), self.size.batches
        return common.rate(lambda: sum((1 + URATIO) * BATCH for _ in loader.steps(0, batches)))

    def stepping(self, variant: Variant) -> Callable[[], float]:
        """Return a function that measures training, in ms/step."""
        loader = self.loader(variant, "device" if self.device.type == "cuda" else "ram")
        width = loader.streams["labelled"].store.columns["pooled"].array.row_shape[-1]
        learner = Learner(width, BATCH, self.size.batches, self.device)
        steps = common.rate(functools.partial(learner.run, loader))
        return lambda: 1000 / steps()

    def accuracy(self, name: str, objective: str, draw: int) -> float:
        """Return the test accuracy in percent."""
        variant, out = VARIANTS[name], self.folder / f"{objective}-{draw}-{name}"
        options = {"optim": {"steps": self.size.steps}, "data": {"token_subset": variant.share}}
        request = TrainRequest(
            self.folder / variant.cache, objective, draw, labels_per_class=2, options=options
        )
        return 100 * float(run_training(request, out)["test"]["accuracy"])


def measure(size: Size) -> dict[str, common.Table]:
    """Make a table for every quantity, by the heading of its column."""
    with tempfile.TemporaryDirectory(dir=".") as folder:
        bench = Bench(Path(folder), size)
        extracting = {n: functools.partial(bench.extract, v) for n, v in OWN_CACHE.items()}
        extracted = common.interleaved(extracting, min(size.rounds, 2), warm_up=0)
        read = common.interleaved({n: bench.reading(v) for n, v in VARIANTS.items()}, size.rounds)
        stepped = common.interleaved({n: bench.stepping(v) for n, v in VARIANTS.items()}, size.rounds)
        found: dict[str, tuple[str, Mapping[str, Sequence[float]]]] = {
            "size": ("kB/sample", {n: [bench.nbytes(v)] for n, v in OWN_CACHE.items()}),
            "extracting": ("ms/sample", extracted),
            "loader": ("samples/s", read),
            "step": ("ms", stepped),
        }
        for objective in OBJECTIVES:
            draws = range(size.draws)
            right = {n: [bench.accuracy(n, objective, draw) for draw in draws] for n in VARIANTS}
            found[objective] = ("% accuracy", right)
    case = f"digits through {GLYPH_CLIP}, {BATCH} + {URATIO * BATCH} rows a step, {bench.device.type}"
    return {
        name: common.Table(f"{case}: {name}", unit, BOUND, values) for name, (unit, values) in found.items()
    }


def together(tables: Mapping[str, common.Table]) -> str:
    """Return all results of a variant in one line; accuracy as mean and paired difference to the bound."""
    heads = [f"{name}, {table.unit}" for name, table in tables.items()]
    lines = [f"| variant | {' | '.join(heads)} |", f"| :--- |{' ---: |' * len(heads)}"]
    for name, variant in VARIANTS.items():
        held_by = next(own for own, other in OWN_CACHE.items() if other.cache == variant.cache)
        cells = [_cell(name if name in t.values else held_by, t) for t in tables.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(name: str, table: common.Table) -> str:
    values, bound = table.values[name], table.values[BOUND]
    if "accuracy" not in table.unit:
        return f"{common.number(median(values))} ({median(values) / median(bound):.2f})"
    if name == BOUND:
        return f"{mean(values):.1f}"
    difference = paired(values, bound)
    return f"{mean(values):.1f} ({difference.mean:+.1f} ± {difference.half_width:.1f})"


def main() -> None:
    """Print a Markdown table for each figure and one of all, and write the rows as JSON where asked."""
    args = common.arguments(__doc__).parse_args()
    tables = measure(SMOKE if args.smoke else FULL)
    common.report(tables.values(), args.json, [together(tables)])


if __name__ == "__main__":
    main()
