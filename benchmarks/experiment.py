"""Compare the cost of N experiments with and without a cache, and find the N from which the cache pays.

    python -m benchmarks.experiment [--smoke] [--json FILE]

Three things are measured in turn. The first is one extraction (`featcache.extract`, with loading the model).
The second is one training from the cache (`featcache.train`, with evaluation). The third is a few steps of
that training with the frozen model in the loop, which reads the images of each step from their files. All
other numbers of steps and experiments are extrapolated. Evaluation is not counted for the model in the loop.
The bound is the trainings alone, as if features cost nothing.

ViT-B/16 is measured twice. With all 197 tokens, the projector has a seventh of the total cost: 24 D^2
products a token in its one block, forward and backward, to 144 D^2 in the model's twelve blocks, forward. So
a training from the cache can be at most seven times cheaper. With the CLS token alone, nearly all of the cost
is that of the model.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks import common
from benchmarks.train import GLYPH_CLIP, URATIO, VIT_B, Learner, in_loop
from featcache import encoders
from featcache.devices import resolve
from featcache.loading.plan import ReadPlan
from featcache.sources import open_source
from featcache.stages.extract import extract
from featcache.stages.train import run_training
from featcache.training.request import TrainRequest

COUNTS = (1, 10, 100)
BOUND = "trainings alone"
CLASSES = 2


class Case(NamedTuple):
    """A model, the images of a data set, and one training on them."""

    model: str
    images: int
    size: tuple[int, int]
    dim: int
    batch: int
    steps: int
    tried: int
    """Steps measured with the model in the loop."""
    tokens: str = "all"


FULL = (
    Case(GLYPH_CLIP, 2000, (48, 48), 128, 32, 100, 10),
    Case(VIT_B, 48, (500, 375), 768, 8, 20, 1),
    Case(VIT_B, 48, (500, 375), 768, 8, 100, 1, "cls"),
)
SMOKE = (Case(GLYPH_CLIP, 100, (48, 48), 128, 8, 10, 2),)


class Found(NamedTuple):
    """What was measured of one case: seconds in every round; `looped` is a whole training."""

    case: str
    extracting: list[float]
    training: list[float]
    looped: list[float]

    def table(self, count: int) -> common.Table:
        """Extrapolate to a number of experiments."""
        seconds = {
            BOUND: [count * training for training in self.training],
            "one extraction, trainings from the cache": [
                extracting + count * training
                for extracting, training in zip(self.extracting, self.training, strict=True)
            ],
            "model in the loop of every training": [count * looped for looped in self.looped],
        }
        return common.Table(f"{self.case}; N = {count}, extrapolated", "s", BOUND, seconds)

    def break_even(self) -> str:
        """Describe the result with its figures."""
        extracting, training, looped = map(median, self[1:])
        spared = looped - training
        times = f"{looped / training:.3g} times a training from the cache"
        said = f"after {extracting / spared:.2f} experiments" if spared > 0 else "never"
        return (
            f"{self.case}: extraction {extracting:.2f} s, training {training:.2f} s, the same with the model "
            f"in the loop {looped:.2f} s, {times}. The cache has paid for itself {said}."
        )


class Experiment:
    """A data set on disk, and the three things that can be done with it, each in seconds."""

    def __init__(self, case: Case, folder: Path) -> None:
        self.case, self.folder, self.device = case, folder, resolve("auto")
        self.images, self.cache = folder / "images", folder / "cache.zarr"
        for split, count in (("train", case.images), ("test", max(case.images // 5, 2 * CLASSES))):
            for name in range(CLASSES):
                common.write_images(self.images / split / str(name), count // CLASSES, case.size)
        self.learner = Learner(case.dim, case.batch, case.tried, self.device)
        self.encoder: Any = encoders.load(case.model)
        self.encoder.to(self.device)
        self.runs = 0

    def measures(self) -> dict[str, Callable[[], float]]:
        """Return the parts in the order in which they must run: training reads the result of extraction."""
        return {"extracting": self.extract, "training": self.train, "looped": self.loop}

    def extract(self) -> float:
        start = time.perf_counter()
        extract(self.images, self.case.model, self.cache, tokens=self.case.tokens, overwrite=True)
        return time.perf_counter() - start

    def train(self) -> float:
        options = {"steps": self.case.steps, "batch_size": self.case.batch, "uratio": URATIO}
        # As many labels as a batch, so that both learn from batches of one size.
        labels = self.case.batch // CLASSES
        request = TrainRequest(self.cache, "twinturbo", labels_per_class=labels, options={"optim": options})
        self.runs += 1
        start = time.perf_counter()
        run_training(request, self.folder / f"run{self.runs}")
        return time.perf_counter() - start

    def loop(self) -> float:
        """Measure a few steps, and extrapolate to the steps of a training."""
        source = open_source(str(self.images))["train"]
        plan = ReadPlan(np.arange(len(source)), (1 + URATIO) * self.case.batch, seed=0)

        def images(step: int) -> Tensor:
            read = [self.encoder.transform(source[row])["image"] for row in plan.batch(step)]
            return torch.stack(read).to(self.device)

        start = time.perf_counter()
        self.learner.run(in_loop(self.encoder, images, self.case.batch, self.case.tokens))
        return (time.perf_counter() - start) * self.case.steps / self.case.tried


def measure(case: Case, rounds: int) -> Found:
    """Run all parts in every round."""
    with tempfile.TemporaryDirectory(dir=".") as folder:
        experiment = Experiment(case, Path(folder))
        found = common.interleaved(experiment.measures(), rounds)
    width, height = case.size
    name = (
        f"{case.model}, tokens {case.tokens}, {case.images} JPEGs of {width} x {height}, {case.steps} steps "
        f"of {case.batch} + {URATIO * case.batch} images, {experiment.device.type}, "
        f"{torch.get_num_threads()} threads"
    )
    return Found(name, **found)


def main() -> None:
    """Print a Markdown table for every N, and the break-even; write the rows as JSON where asked."""
    args = common.arguments(__doc__).parse_args()
    cases, rounds = (SMOKE, 1) if args.smoke else (FULL, 2)
    every = [measure(case, rounds) for case in cases]
    tables = [found.table(count) for found in every for count in COUNTS]
    common.report(tables, args.json, [found.break_even() for found in every])


if __name__ == "__main__":
    main()
