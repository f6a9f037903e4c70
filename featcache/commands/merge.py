"""`featcache merge`: write several caches of the same model as one."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from featcache.commands._common import PLACE, echo, examples, json_option

if TYPE_CHECKING:
    from featcache.location import Location


@click.command(
    "merge",
    epilog=examples(
        "featcache merge monday.zarr tuesday.zarr --out week.zarr",
        "featcache merge site-a.zarr site-b.zarr site-c.zarr --out all.zarr --json",
    ),
)
@click.argument("caches", type=PLACE, nargs=-1, required=True)
@click.option("--out", required=True, type=PLACE, help="The cache, for example CACHE.zarr.")
@click.option("--overwrite", is_flag=True, help="Replace an existing cache.")
@json_option
def command(caches: tuple[Location, ...], out: Location, *, overwrite: bool, as_json: bool) -> None:
    """Write CACHES of the same model and options as one: the rows one cache after the other.

    Classes are united by name. No sample may be in two of them. If the command is interrupted, repeat it to
    continue.
    """
    from featcache.progress import bar
    from featcache.stages.copy import run_merge

    summary = run_merge(caches, out, overwrite=overwrite, progress=bar)
    echo({"cache": str(out), **asdict(summary)} if as_json else f"{summary.describe()}\ncache: {out}")
