"""`featcache extract`: a source and a frozen model become a cache."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from featcache import encoders
from featcache.cache.layout import Unit
from featcache.cache.reader import CacheReader, read_attributes
from featcache.cache.spec import CacheSpec, Shapes, SplitSpec, StorageSpec
from featcache.cache.writer import CacheWriter, SplitWriter
from featcache.config import did_you_mean
from featcache.devices import resolve
from featcache.encoders.base import Encoder
from featcache.errors import CacheError, ConfigError
from featcache.extraction import estimate
from featcache.extraction.batch_size import auto_batch
from featcache.extraction.class_text import class_text
from featcache.extraction.feed import ViewDataset, auto_workers, feed
from featcache.extraction.forward import Forward
from featcache.extraction.int8_scale import PILOT_ROWS, token_std
from featcache.extraction.view_transform import ViewTransform
from featcache.extraction.walk import Clock, plan_batches, walk
from featcache.files import existing, explained
from featcache.sources import open_source
from featcache.sources.base import Source, limit
from featcache.specs import StoredType, ValueType, ViewSpec


@dataclass(frozen=True)
class ExtractRequest:
    """One extraction, fully said: the first block decides what the cache means, the second how it is made."""

    source: str
    model: str
    out: Path
    split: str | None = None
    """One split of the source; all of them by default."""
    views: ViewSpec = field(default_factory=ViewSpec)
    tokens: str = "all"
    layers: tuple[int, ...] = (-1,)
    dtype: StoredType = "float16"
    amp: ValueType = "float32"
    limit: int | None = None
    """Only the first N samples of each split."""
    label_column: str | None = None

    shard_size: str = "128MB"
    batch_size: int | Literal["auto"] = 64
    """Views in a forward pass; auto: as the free memory of the GPU allows, and 64 on the CPU."""
    num_workers: int | None = None
    """Reading processes; 0: a thread reads. None: half the cores, and a thread for a small job."""
    device: str = "auto"


@dataclass
class SplitSummary:
    """What an extraction did for one split."""

    rows: int
    computed: int
    """Views computed now; the others were there."""
    nbytes: int
    """Bytes of the split on disk."""
    failed: dict[str, str]
    """Why, by sample id."""
    seconds: float
    stages: dict[str, float]
    bound_by: str
    at_once: int | None
    """Views that the model was given at most, where memory did not suffice for a whole batch."""


class Progress(Protocol):
    """Told about samples done; tqdm is one."""

    def update(self, n: int) -> object:
        """`n` more samples are done."""


MakeProgress = Callable[[str, int], AbstractContextManager[Progress]]


def extract(
    request: ExtractRequest, *, overwrite: bool = False, progress: MakeProgress | None = None
) -> dict[str, SplitSummary]:
    """Write (or go on writing) the cache of `request`; returns a summary by split.

    The model's output is checked before anything is written. A rerun computes only what is missing. Raises a
    FeatcacheError when the source, the model or the cache at `out` do not fit; what is committed stays.
    """
    job = _Job(request, overwrite)
    job.refuse_loss()
    shapes = job.shapes()
    summaries: dict[str, SplitSummary] = {}
    with CacheWriter(
        request.out,
        job.spec,
        storage=job.storage,
        overwrite=overwrite,
        provenance={"command": _command(request)},
    ) as writer:
        job.require_room(shapes)
        if job.spec.dtype == "int8":
            shapes = shapes.with_std(job.token_std(shapes, writer.shapes))
        for name, source in job.sources.items():
            summaries[name] = job.write(name, source, writer, shapes, progress or _no_progress)
    for name, summary in summaries.items():
        _require_some(name, summary)
    return summaries


def dry_run(
    request: ExtractRequest, *, overwrite: bool = False
) -> tuple[Shapes, dict[str, estimate.Estimate]]:
    """Shapes, bytes and seconds by split, from a short timed pilot; writes nothing.

    Raises CacheError when the disk cannot hold the cache.
    """
    job = _Job(request, overwrite)
    shapes = job.shapes()
    job.require_room(shapes)
    return shapes, {name: job.estimate(source, shapes) for name, source in job.sources.items()}


def opened(request: ExtractRequest) -> tuple[ViewDataset, Forward]:
    """What an extraction reads, batch by batch, and computes with: checked, and nothing is written."""
    job = _Job(request, overwrite=False)
    source = next(iter(job.sources.values()))
    return job._dataset(source, [Unit(0, 0, 0, len(source))]), job.forward


class _Job:
    """The source, the model and the meaning of the cache they give, opened and checked."""

    def __init__(self, request: ExtractRequest, overwrite: bool) -> None:
        self.request, self.overwrite = request, overwrite
        self.storage = StorageSpec.parse({"shard_size": request.shard_size}, "the options")
        self.sources = _sources(request)
        self.encoder = encoders.load(request.model)
        _require_modality(self.encoder, self.sources)
        self.device = resolve(request.device)
        self.encoder.to(self.device)
        self.spec = CacheSpec.parse(
            {
                "encoder": self.encoder.spec.model_dump(),
                "layers": request.layers,
                "tokens": request.tokens,
                "views": request.views,
                "dtype": request.dtype,
                "amp": request.amp,
                "class_names": self._class_names(),
            },
            "the options",
        )
        self.forward = Forward(self.encoder, request.layers, request.tokens, request.amp, self.device)
        self.views = request.views.names()
        asked = request.batch_size
        first = next(iter(self.sources.values()))
        self.batch_size = auto_batch(self.forward, first) if asked == "auto" else asked

    def shapes(self) -> Shapes:
        return self.forward.shapes(next(iter(self.sources.values())))

    def token_std(self, shapes: Shapes, stored: Shapes | None) -> Mapping[int, Sequence[float]]:
        """What int8 tokens are divided by, by layer: what the cache has `stored`, so that all of it is alike.

        For a new cache, it is measured on the first samples of the first split under the evaluation view.
        """
        if stored is not None:
            return {array.layer: array.std for array in stored.layers}
        source = next(iter(self.sources.values()))
        rows = min(len(source), PILOT_ROWS)
        batches = list(plan_batches([Unit(0, 0, 0, rows)], 1, self.batch_size))
        dataset = ViewDataset(source, self._transform(), self.views[:1], batches)
        with closing(feed(dataset, self._workers(rows), self.device)) as arriving:
            return token_std(shapes, arriving, self.forward)

    def refuse_loss(self) -> None:
        """Raise CacheError where overwriting one split would delete the others with the cache."""
        out = self.request.out
        if not self.overwrite or self.request.split is None or read_attributes(out) is None:
            return
        lost = [name for name in CacheReader.open(out).split_names if name not in self.sources]
        if lost:
            raise CacheError(
                f"--overwrite replaces the whole cache {out}, so other splits would be deleted",
                got=f"splits {', '.join(lost)} in the cache",
                expected=f"only {self.request.split}",
                hint="extract all splits together (without --split), or choose another --out",
            )

    def require_room(self, shapes: Shapes) -> None:
        """Raise CacheError where the disk cannot hold what is not there yet."""
        out = self.request.out
        kept = [out] if self.overwrite else [out / name for name in self.sources]
        there = sum(map(_disk_bytes, kept)) if read_attributes(out) is not None else 0
        needed = sum(self._nbytes(source, shapes) for source in self.sources.values())
        estimate.require_room(out, needed - there)

    def estimate(self, source: Source, shapes: Shapes) -> estimate.Estimate:
        """By a pilot: the first samples are extracted for good, into a folder that is gone afterwards."""
        views, rows, folder = len(self.views), len(source), existing(self.request.out)
        if self.spec.dtype == "int8":  # any will do for values that nobody keeps
            shapes = shapes.with_std({layer.layer: [1.0] * layer.dim for layer in shapes.layers})
        some = limit(source, estimate.pilot_rows(self._dataset(source, [Unit(0, 0, 0, rows)]), self.forward))
        with (
            explained(folder, error=CacheError),
            tempfile.TemporaryDirectory(prefix=".featcache-", dir=folder) as place,
            CacheWriter(Path(place) / "pilot.zarr", self.spec, storage=self.storage) as writer,
        ):
            spec = SplitSpec(source_digest="pilot", rows=len(some))
            split = writer.split("pilot", spec, some.ids, some.labels, shapes)
            workers = self._workers(views * rows)
            dataset = self._dataset(some, split.missing())
            clock = self._walk(dataset, workers, split, lambda done: None)
        readers = max(1, min(workers, len(dataset)))
        took = estimate.seconds(clock, readers, rows / len(some)) + estimate.digest_seconds(source)
        return estimate.Estimate(rows, views, self._nbytes(source, shapes), took)

    def write(
        self, name: str, source: Source, writer: CacheWriter, shapes: Shapes, progress: MakeProgress
    ) -> SplitSummary:
        start = time.perf_counter()
        split_spec = SplitSpec(source_digest=source.digest(), rows=len(source))
        split = writer.split(name, split_spec, source.ids, source.labels, shapes)
        # Before any shard, so that a cache whose splits are complete never lacks them.
        self._write_class_text(writer)
        dataset = self._dataset(source, split.missing())
        samples = sum(map(len, dataset.batches))
        todo = samples * len(self.views)
        with progress(name, samples) as bar:
            clock = self._walk(dataset, self._workers(todo), split, bar.update)
        failed = CacheReader.open(self.request.out).split(name).failures()
        return SplitSummary(
            rows=len(source),
            computed=todo,
            nbytes=_disk_bytes(split.path),
            failed={source.ids[row]: reason for row, reason in failed.items()},
            seconds=time.perf_counter() - start,
            stages={"read": clock.read, "wait": clock.wait, "forward": clock.forward, "write": clock.write},
            bound_by=clock.bound_by(),
            at_once=self.forward.at_once,
        )

    def _walk(
        self, dataset: ViewDataset, workers: int, split: SplitWriter, advance: Callable[[int], object]
    ) -> Clock:
        clock = Clock()
        with closing(feed(dataset, workers, self.device)) as arriving:
            walk(arriving, self.forward, split, split.missing(), clock, advance)
        return clock

    def _dataset(self, source: Source, units: list[Unit]) -> ViewDataset:
        batches = list(plan_batches(units, len(self.views), self.batch_size))
        return ViewDataset(source, self._transform(), self.views, batches)

    def _transform(self) -> ViewTransform:
        return ViewTransform(self.encoder.transform, self.encoder.spec.modality, self.request.views)

    def _write_class_text(self, writer: CacheWriter) -> None:
        """Embeddings of the class names, where there is a text tower and they are not there yet."""
        templates = self.encoder.templates
        if not (templates and self.spec.class_names and writer.needs_class_text(templates)):
            return
        if (text := class_text(self.encoder, self.spec.class_names)) is not None:
            writer.class_text(text.numpy(), templates)

    def _class_names(self) -> tuple[str, ...]:
        """The source's class names; an unlabelled source added to a labelled cache takes that cache's."""
        names = next(iter(self.sources.values())).class_names
        if names or self.overwrite or read_attributes(self.request.out) is None:
            return names
        return CacheReader.open(self.request.out).class_names

    def _nbytes(self, source: Source, shapes: Shapes) -> int:
        return estimate.cache_bytes(shapes, len(source), len(self.views), self.spec.dtype)

    def _workers(self, views: int) -> int:
        asked = self.request.num_workers
        return auto_workers(views) if asked is None else asked


def _sources(request: ExtractRequest) -> dict[str, Source]:
    found: Mapping[str, Source] = open_source(request.source, label_column=request.label_column)
    if request.split is not None:
        if request.split not in found:
            raise ConfigError(
                "the source has no such split", got=request.split, hint=did_you_mean(request.split, found)
            )
        found = {request.split: found[request.split]}
    if request.limit is not None:
        found = {name: limit(source, request.limit) for name, source in found.items()}
    return dict(found)


def _require_modality(encoder: Encoder, sources: Mapping[str, Source]) -> None:
    for name, source in sources.items():
        if source.modality != encoder.spec.modality:
            raise ConfigError(
                f"the model cannot read the split `{name}`",
                got=f"a source of {source.modality} samples",
                expected=f"{encoder.spec.modality} samples, which {encoder.spec.name} reads",
            )


def _disk_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _require_some(name: str, summary: SplitSummary) -> None:
    if len(summary.failed) == summary.rows:
        raise CacheError(
            f"not one of the {summary.rows} samples of `{name}` could be read",
            got=next(iter(summary.failed.values())),
            hint="mend the files, then extract again with --overwrite",
        )


def _command(request: ExtractRequest) -> str:
    """How the cache was asked for, without its own place: caches of one content are equal byte for byte."""
    views = ",".join(
        f"{name}={value}" for name, value in request.views.model_dump(exclude_defaults=True).items()
    )
    layers = "|".join(map(str, request.layers))
    said = {
        "views": views,
        "tokens": request.tokens,
        "layer": layers,
        "dtype": request.dtype,
        "amp": request.amp,
    }
    options = "".join(f" --{name} {value}" for name, value in said.items() if value)
    return f"featcache extract {request.source} --model {request.model}{options}"


def _no_progress(name: str, total: int) -> AbstractContextManager[Progress]:
    return nullcontext(_Quiet())


class _Quiet:
    def update(self, n: int) -> None:
        """Say nothing."""
