"""Plan the import of embeddings that anybody may have made."""

from __future__ import annotations

from pathlib import Path

from featcache.cache.spec import CacheSpec, SplitSpec
from featcache.exchange.features import EMPTY, Form, check_and_digest
from featcache.exchange.identity import encoder_of
from featcache.exchange.options import ImportOptions
from featcache.exchange.plan import Batch, ImportedSplit, ImportPlan, ReadBatch
from featcache.exchange.samples import Samples, read_place
from featcache.progress import MakeProgress
from featcache.specs import EncoderSpec


def plan(
    place: Path, options: ImportOptions, existing: EncoderSpec | None, progress: MakeProgress
) -> ImportPlan:
    """Read and check all files of a place; `existing` is the model of the cache that is there already.

    Raise SourceError as `read_place` and `check_and_digest` do.
    """
    found = read_place(place, options)
    form = Form.of(found, options)
    splits: dict[str, ImportedSplit] = {}
    for name, samples in found.splits.items():
        with progress(f"checking {name}", len(samples)) as bar:
            digest, empty = check_and_digest(samples, form, bar.update)
        splits[name] = ImportedSplit(
            spec=SplitSpec(content=digest, rows=len(samples)),
            ids=list(samples.ids),
            labels=samples.labels,
            read=_reader(samples, form),
            step=form.step(),
            empty=len(empty),
        )
    first = next(iter(splits.values())).spec.content or ""
    mean = next(iter(found.splits.values())).pooled is None
    spec = CacheSpec(
        encoder=encoder_of(options.model, first, mean=mean, existing=existing),
        layers=(-1,),
        tokens="pooled" if form.only_pooled else "all",
        dtype=form.dtype,
    )
    return ImportPlan(
        spec=spec,
        shapes=form.shapes(),
        class_names=found.class_names,
        splits=splits,
        provenance={"source": place.name, "options": options.model_dump(mode="json", exclude_none=True)},
        keys={role: str(key) for role, key in found.keys.items()},
        longest=form.longest,
    )


def _reader(samples: Samples, form: Form) -> ReadBatch:
    def read(view: int, start: int, stop: int) -> Batch:
        rows = form.rows(samples, start, stop)
        return Batch({-1: rows.tokens}, rows.pooled, rows.mask, {start + row: EMPTY for row in rows.empty})

    return read
