"""From image files to tokens on disk: `featcache.extract` against the bare forward pass.

    python -m benchmarks.extract [--smoke] [--json FILE]

The bound is the module's own forward pass on batches that are ready on the device: nothing is read, decoded
or written. The usual script is a DataLoader over the files, the forward pass that gives the tokens, and
`np.save` of all of them at the end, as float16. Models are loaded before the clock starts, except where it
says so.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks import common
from featcache import encoders
from featcache.devices import resolve
from featcache.extraction.feed import auto_workers
from featcache.sources import open_source
from featcache.stages.extract import ExtractRequest, extract

BOUND = "bare forward pass"
BARE = {"open_clip": "encode_image", "timm": "forward_features"}
"""A family's own method from a batch of images to features."""


class Case(NamedTuple):
    """A model, and the images it is to see."""

    model: str
    images: int
    size: tuple[int, int]
    batch: int


GLYPH_CLIP, VIT_B = "open_clip:glyph-clip", "timm:vit_base_patch16_224/random"
FULL = (Case(GLYPH_CLIP, 4096, (48, 48), 64), Case(VIT_B, 256, (500, 375), 64))
SMOKE = (Case(GLYPH_CLIP, 64, (48, 48), 32), Case(VIT_B, 2, (500, 375), 2))


class Files(Dataset[Tensor]):
    """The images of a folder, as the model takes them."""

    def __init__(self, folder: Path, transform: Any) -> None:
        self.source, self.transform = open_source(str(folder))["train"], transform

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, row: int) -> Tensor:
        image: Tensor = self.transform(self.source[row])["image"]
        return image


class Contestants:
    """Everyone who takes the images of one folder through one model; each gives images a second."""

    def __init__(self, case: Case, folder: Path) -> None:
        self.case, self.folder, self.device = case, folder, resolve("auto")
        self.images = folder / "images"
        common.write_images(self.images, case.images, case.size)
        self.encoder: Any = encoders.load(case.model)
        self.encoder.to(self.device)
        self.files = Files(self.images, self.encoder.transform)
        self.ready = [batch.to(self.device) for batch in self.batches()]

    def batches(self) -> DataLoader[Tensor]:
        workers = auto_workers(self.case.images)
        return DataLoader(self.files, self.case.batch, num_workers=workers)

    def all(self) -> dict[str, Callable[[], float]]:
        """The contestants by name."""
        return {
            BOUND: common.rate(self.bare),
            "featcache.extract": lambda: self.case.images / self.extract()[0],
            "featcache.extract, loading the model included": lambda: self.case.images / self.extract()[1],
            "DataLoader, forward, np.save": common.rate(self.script),
        }

    def bare(self) -> int:
        forward = getattr(self.encoder.module, BARE[self.case.model.partition(":")[0]])
        with torch.inference_mode():
            for batch in self.ready:
                forward(batch)
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return self.case.images

    def extract(self) -> tuple[float, float]:
        """Seconds of the walk as its summary says them, and of the whole call."""
        request = ExtractRequest(
            str(self.images), self.case.model, self.folder / "cache.zarr", batch_size=self.case.batch
        )
        start = time.perf_counter()
        (summary,) = extract(request, overwrite=True).values()
        return summary.seconds, time.perf_counter() - start

    def script(self) -> int:
        def encoded() -> Iterator[tuple[Tensor, Tensor]]:
            for batch in self.batches():
                out = self.encoder.encode({"image": batch.to(self.device)}, (-1,))
                yield out.tokens[-1].half().cpu(), out.pooled.half().cpu()

        tokens, pooled = zip(*encoded(), strict=True)
        np.save(self.folder / "tokens.npy", torch.cat(tokens).numpy())
        np.save(self.folder / "pooled.npy", torch.cat(pooled).numpy())
        return self.case.images


def measure(case: Case, rounds: int) -> common.Table:
    """Every contestant on one case."""
    with tempfile.TemporaryDirectory(dir=".") as folder:
        contestants = Contestants(case, Path(folder))
        rates = common.interleaved(contestants.all(), rounds)
    width, height = case.size
    name = (
        f"{case.model}, {case.images} JPEGs of {width} x {height}, batches of {case.batch}, "
        f"{contestants.device.type}, {torch.get_num_threads()} threads"
    )
    return common.Table(name, "images/s", BOUND, rates)


def main() -> None:
    """Print a Markdown table for each model, and write the rows as JSON where asked."""
    args = common.arguments(__doc__).parse_args()
    cases, rounds = (SMOKE, 1) if args.smoke else (FULL, 5)
    common.report([measure(case, rounds) for case in cases], args.json)


if __name__ == "__main__":
    main()
