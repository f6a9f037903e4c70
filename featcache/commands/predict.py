"""`featcache predict`: predict the class of every sample of a cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from featcache.commands._common import PLACE, echo, examples, json_option, plain

if TYPE_CHECKING:
    from featcache.location import Location


@click.command(
    "predict",
    epilog=examples(
        "featcache predict runs/first photos.zarr --out predictions.csv",
        "featcache predict runs/first new.zarr --split test --out new.csv",
    ),
)
@click.argument("run", type=PLACE)
@click.argument("cache", type=PLACE)
@click.option("--out", required=True, type=PLACE, help="The table, for example predictions.csv.")
@click.option("--split", help="One split of the cache [default: all].")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@json_option
def command(
    run: Location, cache: Location, out: Location, split: str | None, device: str, as_json: bool
) -> None:
    """Predict the class of every sample in CACHE with the finished RUN.

    CACHE must have the model, layer and tokens that RUN was trained on; it may be another cache. The table is
    CSV with the columns split, id, prediction, confidence and label.
    """
    from featcache.stages import predict as stage

    summaries = stage.predict(run, cache, out, split=split, device=device)
    lines = [stage.describe(name, summary) for name, summary in summaries.items()]
    content = {"predictions": str(out), "splits": plain(summaries)}
    echo(content if as_json else "\n".join([*lines, f"predictions: {out}"]))
