"""Compare the steps/s of one training that reads from a cache, from memory, from HDF5 or from the model.

    python -m benchmarks.train [--smoke] [--json FILE]
    python -m benchmarks.train --profile

All contestants run featcache's loop with the same projector and objective (twinturbo); only the origin of the
batches differs. The bound has all its batches ready in memory. With the model in the loop, the images are
ready in memory, and only the frozen forward pass is added, without reading and decoding.

`--profile` shows the time of a step on batches in memory, by kind of operation.
"""

from __future__ import annotations

import functools
import tempfile
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader, Dataset

from benchmarks import common
from featcache import encoders
from featcache.batch import Batch, Features, Views
from featcache.cache.reader import CacheReader
from featcache.cache.spec import FeatureSpec
from featcache.devices import resolve
from featcache.extraction.tokens import select
from featcache.loading.loader import Loader
from featcache.loading.store import FeatureStore, reside
from featcache.objectives.base import Task
from featcache.training.loop import fit
from featcache.training.options import TrainOptions
from featcache.training.recipe import Recipe
from featcache.training.task import FeatureOrigin
from featcache.training.trained_projector import TrainedProjector

BOUND = "batches in memory"
GLYPH_CLIP, VIT_B = "open_clip:glyph-clip", "timm:vit_base_patch16_224/random"
URATIO = 3
EVAL = Views(("eval",), ("eval",))
WORKERS = (0, 2)
PROFILED = ((50, 384), (197, 768))
"""Tokens and width of the steps that --profile looks into, with 32 labelled rows."""
KINDS = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::addmv", "aten::mv"),
    "attention": ("aten::_scaled_dot_product", "aten::_flash", "aten::_efficient", "aten::_softmax"),
    "layer norm and GELU": ("aten::native_layer_norm", "aten::gelu"),
    "casts and copies": ("aten::copy_", "aten::cat", "aten::clone", "aten::fill_", "aten::index_select"),
    "sums and products by element": ("aten::add", "aten::mul", "aten::sum"),
    "optimiser": ("aten::_fused_adamw", "Optimizer."),
    "all else": ("",),
}
"""Beginnings of the names of operations; the first that fits counts."""


class Case(NamedTuple):
    """A model, the images it takes, the tokens it gives, and a training on them."""

    model: str
    image: int
    tokens: int
    dim: int
    rows: int
    batch: int
    steps: int


FULL = (Case(GLYPH_CLIP, 32, 65, 128, 8192, 32, 20), Case(VIT_B, 224, 197, 768, 1024, 8, 4))
SMOKE = (Case(GLYPH_CLIP, 32, 65, 128, 512, 8, 5),)


class Made:
    """Batches from a function of the step."""

    def __init__(self, batch: Callable[[int], Batch]) -> None:
        self.batch = batch

    def steps(self, start: int, stop: int) -> Generator[Batch]:
        """Yield the batches of steps `start` to `stop` - 1."""
        yield from map(self.batch, range(start, stop))


class Learner:
    """One projector and objective, which every contestant trains on."""

    def __init__(
        self,
        dim: int,
        batch: int,
        steps: int,
        device: torch.device,
        objective: str = "twinturbo",
        **optim: Any,
    ) -> None:
        self.steps, self.device = steps, device
        optim |= {"steps": steps, "batch_size": batch, "uratio": URATIO}
        self.options = TrainOptions.parse({"optim": optim}, "the options")
        generator, classes = torch.Generator().manual_seed(0), len(common.CLASS_NAMES)
        task = Task(
            num_classes=classes,
            dim=dim,
            pooled_dim=dim,
            num_unlabelled=URATIO * batch,
            label_counts=torch.full((classes,), 4),
            center=torch.zeros(dim),
            class_init=torch.randn(classes, dim, generator=generator),
        )
        features = FeatureSpec(encoder=common.ENCODER, layer=-1, tokens="all", dim=dim, pooled=dim)
        origin = FeatureOrigin(features=features, class_names=common.CLASS_NAMES)
        self.learner = TrainedProjector(Recipe(objective, self.options, 0, device), task, origin)

    def run(self, batches: Batches) -> int:
        """Take every step once; return their number."""
        self.learner.state.step = 0
        with closing(batches.steps(0, self.steps)) as given:
            fit([self.learner], given, self.device)
        return self.steps


class Batches(Protocol):
    """Anything that yields the batches of some steps."""

    def steps(self, start: int, stop: int) -> Generator[Batch]:
        """Yield the batches of steps `start` to `stop` - 1."""


class Rows(Dataset[tuple[Tensor, Tensor]]):
    """Tokens and pooled of one row at a time, from contiguous HDF5."""

    def __init__(self, path: Path, rows: int) -> None:
        self.path, self.rows = path, rows

    @functools.cached_property
    def file(self) -> Any:
        """Opened at the first row, by every worker for itself."""
        import h5py

        return h5py.File(self.path)

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(self.file["tokens"][row]), torch.from_numpy(self.file["pooled"][row])


class Usual:
    """What `fit` asks of a loader, from the usual DataLoader: every time the beginning of a new epoch."""

    def __init__(self, rows: Rows, batch: int, workers: int, device: torch.device) -> None:
        self.batch, self.device = batch, device
        self.loader = DataLoader(
            rows,
            (1 + URATIO) * batch,
            shuffle=True,
            drop_last=True,
            generator=torch.Generator().manual_seed(0),
            num_workers=workers,
            persistent_workers=workers > 0,
        )

    def steps(self, start: int, stop: int) -> Generator[Batch]:
        """Yield batches from workers that wait only for their start."""
        for _, (tokens, pooled) in zip(range(start, stop), self.loader, strict=False):
            yield halves(tokens.to(self.device), pooled.to(self.device), self.batch)


def in_loop(encoder: Any, images: Callable[[int], Tensor], batch: int, tokens: str = "all") -> Made:
    """Make batches by the frozen model from the images of each step, in the type that a cache would hold."""

    def encode(step: int) -> Batch:
        out = select(encoder.encode({"image": images(step)}, (-1,)), tokens)
        return halves(out.tokens[-1].half(), out.pooled.half(), batch)

    return Made(encode)


def halves(tokens: Tensor, pooled: Tensor, batch: int) -> Batch:
    """Make a batch of the first `batch` rows as labelled ones, and the others as unlabelled ones."""
    index = torch.arange(len(tokens), device=tokens.device)
    return Batch(
        (Features(tokens[:batch], None, pooled[:batch]),),
        index[:batch] % len(common.CLASS_NAMES),
        (Features(tokens[batch:], None, pooled[batch:]),),
        index[batch:] - batch,
    )


def write_hdf5(path: Path, store: FeatureStore) -> None:
    """Write the rows of the cache contiguously."""
    import h5py

    with h5py.File(path, "w") as file:
        for name in ("tokens", "pooled"):
            column = store.columns[name]
            file.create_dataset(name, data=column.array.gather(np.arange(store.rows), 0))


def contestants(case: Case, folder: Path, device: torch.device) -> dict[str, Callable[[], float] | None]:
    """Return all contestants that train on the rows of one cache; each returns steps/s."""
    path, rows, both = folder / "cache.zarr", np.arange(case.rows), (1 + URATIO) * case.batch
    common.write_cache(path, {"train": case.rows}, common.random_tokens(case.tokens, case.dim))
    learner = Learner(case.dim, case.batch, case.steps, device)
    encoder = encoders.load(case.model)
    encoder.to(device)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(both, 3, case.image, case.image, generator=generator).to(device)

    def store() -> FeatureStore:
        return FeatureStore.open(CacheReader.open(path), "train")

    def loader(of: FeatureStore) -> Loader:
        return common.both_streams(of, case.batch, URATIO, device)

    resident = store()
    reside(resident, "device" if device.type == "cuda" else "ram", device)
    everything = resident.gather(rows, 0, resident.buffers(case.rows))
    parts = [torch.arange(step * both, (step + 1) * both) % case.rows for step in range(case.steps)]
    held = [
        halves(everything.tokens.to(device)[part], everything.pooled.to(device)[part], case.batch)
        for part in parts
    ]
    batches: dict[str, Batches | None] = {
        BOUND: Made(held.__getitem__),
        "featcache, resident": loader(resident),
        "featcache, streaming": loader(store()),
        **{f"DataLoader over h5py, {workers} workers": None for workers in WORKERS},
        "model in the loop": in_loop(encoder, lambda step: images, case.batch),
    }
    if common.installed("h5py"):
        write_hdf5(folder / "rows.h5", store())
        for workers in WORKERS:
            rows_of = Rows(folder / "rows.h5", case.rows)
            batches[f"DataLoader over h5py, {workers} workers"] = Usual(rows_of, case.batch, workers, device)
    return {
        name: None if made is None else common.rate(functools.partial(learner.run, made))
        for name, made in batches.items()
    }


def measure(case: Case, rounds: int) -> common.Table:
    """Run all contestants on one case."""
    device = resolve("auto")
    with tempfile.TemporaryDirectory(dir=".") as folder:
        rates = common.interleaved(contestants(case, Path(folder), device), rounds)
    name = (
        f"{case.model}, {case.rows} x {case.tokens} x {case.dim} float16, "
        f"{case.batch} + {URATIO * case.batch} rows a step, {device.type}, {torch.get_num_threads()} threads"
    )
    return common.Table(name, "steps/s", BOUND, rates)


def profiled(tokens: int, dim: int, objective: str, amp: str, steps: int = 3) -> Counter[str]:
    """Return ms/step by kind of operation: the time of the GPU if there is one, else of the CPU."""
    device, rows = resolve("auto"), (1 + URATIO) * 32
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(rows, tokens, dim, generator=generator).to(device, torch.float16)
    batches, learner = Made(lambda step: held), Learner(dim, 32, steps, device, objective, amp=amp)
    held = halves(drawn, drawn.mean(1), 32)
    learner.run(batches)
    cuda = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]) as found:
        learner.run(batches)
    spent: Counter[str] = Counter()
    for event in found.key_averages():
        kind = next(kind for kind, names in KINDS.items() if event.key.startswith(names))
        spent[kind] += (event.self_device_time_total if cuda else event.self_cpu_time_total) / 1000 / steps
    return spent


def profile_table() -> str:
    """Return a Markdown table with a column for each step and a row for each kind."""
    said = {
        f"{objective}, {tokens} x {dim}, {amp}": profiled(tokens, dim, objective, amp)
        for tokens, dim in PROFILED
        for objective in ("supervised", "twinturbo")
        for amp in ("float32", "bfloat16")
    }
    lines = [
        f"| of a step on 32 + 96 rows; {common.machine()} | {' | '.join(said)} |",
        "| --- " * (len(said) + 1) + "|",
    ]
    for kind in KINDS:
        shares = (f"{spent[kind] / spent.total():.1%}" for spent in said.values())
        lines.append(f"| {kind} | {' | '.join(shares)} |")
    totals = (f"{spent.total():.0f} ms" for spent in said.values())
    return "\n".join([*lines, f"| all | {' | '.join(totals)} |"])


def main() -> None:
    """Print a Markdown table for each model, and write the rows as JSON where asked."""
    parser = common.arguments(__doc__)
    parser.add_argument("--profile", action="store_true", help="where the time of a step goes, and no more")
    args = parser.parse_args()
    if args.profile:
        print(profile_table())
        return
    cases, rounds = (SMOKE, 2) if args.smoke else (FULL, 3)
    common.report([measure(case, rounds) for case in cases], args.json)


if __name__ == "__main__":
    main()
