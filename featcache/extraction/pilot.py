"""A short timed extraction into a temporary cache, which says how long the whole will take."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from featcache.cache.layout import Unit
from featcache.cache.spec import SplitSpec
from featcache.errors import CacheError
from featcache.extraction import estimate
from featcache.extraction.block import begun, run_here
from featcache.extraction.opened import Opened
from featcache.extraction.plan import ExtractionPlan
from featcache.files import existing, explained
from featcache.sources.base import limit


def predict(plan: ExtractionPlan, opened: Opened, split: str) -> estimate.Estimate:
    """Return rows, bytes and predicted seconds of one split.

    The pilot lies beside the cache, on the same disk, and is removed.
    """
    source, views, folder = (
        opened.splits[split],
        len(plan.spec.views.names()),
        existing(plan.out.absolute().parent),
    )
    dataset = opened.dataset(source, [Unit(0, 0, 0, len(source))], plan.batch_size)
    some = limit(source, estimate.pilot_rows(dataset, opened.forward))
    workers, shapes = plan.workers(views * len(source)), plan.shapes
    if plan.spec.dtype == "int8":  # the scale does not matter for values that nobody keeps
        shapes = shapes.with_std({layer.layer: [1.0] * layer.dim for layer in shapes.layers})
    with (
        explained(folder, error=CacheError),
        tempfile.TemporaryDirectory(prefix=".featcache-", dir=folder) as place,
    ):
        pilot = replace(
            plan,
            out=Path(place) / "pilot.zarr",
            overwrite=False,
            class_names=(),  # no time is spent on class texts
            shapes=shapes,
            splits={split: SplitSpec(content="pilot", rows=len(some))},
            options=plan.options.model_copy(update={"num_workers": workers}),
        )
        own = replace(opened, splits={split: some})
        with begun(pilot, own) as cache:
            blocks = pilot.blocks(cache)
            report = run_here(pilot, blocks, own)[split]
    batches = sum(batch.stop <= len(some) for batch in dataset.batches)
    readers = max(1, min(workers, batches))
    took = estimate.seconds(report.clock, readers, len(source) / len(some)) + estimate.digest_seconds(source)
    return estimate.Estimate(len(source), views, plan.nbytes(len(source)), took)
