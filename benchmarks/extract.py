"""Compare `featcache.extract`, from image files to tokens on disk, with the forward pass alone.

    python -m benchmarks.extract [--smoke] [--json FILE]

The bound is the module's forward pass on batches that are ready on the device: nothing is read, decoded or
written. The usual script has a DataLoader over the files, a forward pass to tokens, and one `np.save` of all
tokens at the end, as float16. clip-retrieval (`clip_inference/writer.py`) keeps only the pooled embeddings.
It buffers the batches of a part, and writes the part as one `.npy` and its metadata as Parquet; this file
reimplements that. Models are loaded before the clock starts, unless stated otherwise. On a GPU, ViT-B/16 and
ViT-L/14 compute in bfloat16.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks import common
from featcache import encoders
from featcache.devices import resolve
from featcache.extraction.feed import auto_workers
from featcache.extraction.options import ExtractOptions
from featcache.sources import open_source
from featcache.specs import ValueType
from featcache.stages.extract import run_extraction

BOUND = "bare forward pass"
BARE = {"open_clip": "encode_image", "timm": "forward_features"}
"""A family's own method from a batch of images to features."""


class Case(NamedTuple):
    """A model, and the images it is to see."""

    model: str
    images: int
    size: tuple[int, int]
    batch: int
    amp: ValueType = "float32"


GLYPH_CLIP, VIT_B = "open_clip:glyph-clip", "timm:vit_base_patch16_224/random"
VIT_S, VIT_L = "timm:vit_small_patch16_224/random", "timm:vit_large_patch14_224/random"
FULL = (
    Case(GLYPH_CLIP, 1024, (48, 48), 64),
    Case(VIT_S, 128, (500, 375), 32),
    Case(VIT_B, 32, (500, 375), 8),
)
SMOKE = (Case(GLYPH_CLIP, 64, (48, 48), 32), Case(VIT_B, 2, (500, 375), 2))
GPU = tuple(Case(model, 8192, (500, 375), 256, "bfloat16") for model in (VIT_B, VIT_L))


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
        """Return the contestants by name."""
        return {
            BOUND: common.rate(self.bare),
            "featcache.extract": lambda: self.case.images / self.extract()[0],
            "featcache.extract, loading the model included": lambda: self.case.images / self.extract()[1],
            "DataLoader, forward, np.save": common.rate(self.script),
            "clip-retrieval's way, pooled only": common.rate(self.parts),
        }

    def bare(self) -> int:
        forward = getattr(self.encoder.module, BARE[self.case.model.partition(":")[0]])
        with torch.inference_mode(), self.amp():
            for batch in self.ready:
                forward(batch)
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return self.case.images

    def extract(self) -> tuple[float, float]:
        """Return the seconds of the extraction, from its summary, and of the whole call."""
        options = ExtractOptions(amp=self.case.amp, batch_size=self.case.batch)
        cache, start = self.folder / "cache.zarr", time.perf_counter()
        (summary,) = run_extraction(self.images, self.case.model, cache, options, overwrite=True).values()
        return summary.seconds, time.perf_counter() - start

    def encoded(self) -> Iterator[tuple[Tensor, NDArray[np.float16]]]:
        """Yield batches: tokens on the device, pooled on the host."""
        for batch in self.batches():
            with self.amp():
                out = self.encoder.encode({"image": batch.to(self.device)}, (-1,))
            yield out.tokens[-1], out.pooled.half().cpu().numpy()

    def script(self) -> int:
        tokens, pooled = zip(*((each.half().cpu(), own) for each, own in self.encoded()), strict=True)
        np.save(self.folder / "tokens.npy", torch.cat(tokens).numpy())
        np.save(self.folder / "pooled.npy", np.concatenate(pooled))
        return self.case.images

    def parts(self) -> int:
        """Write one part at the end, as every case fits into one."""
        whole = np.concatenate([pooled for _, pooled in self.encoded()])
        buffer = BytesIO()
        np.save(buffer, whole)
        (self.folder / "img_emb_0.npy").write_bytes(buffer.getbuffer())
        table = pa.table({"image_path": list(self.files.source.ids)})
        pq.write_table(table, self.folder / "metadata_0.parquet")
        return self.case.images

    def amp(self) -> torch.autocast:
        dtype = torch.bfloat16
        return torch.autocast(self.device.type, dtype, enabled=self.case.amp == "bfloat16")


def measure(case: Case, rounds: int) -> common.Table:
    """Run all contestants on one case."""
    with tempfile.TemporaryDirectory(dir=".") as folder:
        contestants = Contestants(case, Path(folder))
        rates = common.interleaved(contestants.all(), rounds)
    width, height = case.size
    name = (
        f"{case.model}, {case.images} JPEGs of {width} x {height}, batches of {case.batch}, "
        f"{contestants.device.type}, {case.amp}, {torch.get_num_threads()} threads"
    )
    return common.Table(name, "images/s", BOUND, rates)


def main() -> None:
    """Print a Markdown table for each model, and write the rows as JSON where asked."""
    args = common.arguments(__doc__).parse_args()
    gpu = GPU if torch.cuda.is_available() else ()
    cases, rounds = (SMOKE, 1) if args.smoke else ((*FULL, *gpu), 3)
    common.report([measure(case, rounds) for case in cases], args.json)


if __name__ == "__main__":
    main()
