"""`featcache export`: write a cache in a format that other tools read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from featcache.commands._common import PLACE, echo, examples, json_option

if TYPE_CHECKING:
    from featcache.location import Location


@click.command(
    "export",
    epilog=examples(
        "featcache export CACHE.zarr --to h5 --out cache.h5",
        "featcache export CACHE.zarr --to parquet --split train --out exported",
    ),
)
@click.argument("cache", type=PLACE)
@click.option(
    "--to",
    required=True,
    type=click.Choice(["h5", "npy", "parquet", "safetensors"]),
    help="h5 and safetensors are one file, npy and parquet a folder.",
)
@click.option("--out", required=True, type=PLACE, help="The file or folder; an earlier export is replaced.")
@click.option("--split", help="One split of the cache [default: all].")
@json_option
def command(cache: Location, to: str, out: Location, split: str | None, as_json: bool) -> None:
    """Write CACHE in another format: ids, labels, class names, and every view and layer.

    `featcache import` makes the same cache of it again.
    """
    from featcache.progress import bar
    from featcache.stages import export as stage

    path = stage.run_export(cache, out, to=to, split=split, progress=bar)
    echo({"export": str(path)} if as_json else stage.describe(path))
