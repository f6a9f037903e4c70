"""`featcache info`: describe a cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from featcache.commands._common import PLACE, echo, examples, json_option

if TYPE_CHECKING:
    from featcache.location import Location


@click.command("info", epilog=examples("featcache info photos.zarr", "featcache info photos.zarr --json"))
@click.argument("cache", type=PLACE)
@json_option
def command(cache: Location, as_json: bool) -> None:
    """Print the model, shapes, classes, splits and completeness of CACHE, and how it was made."""
    from featcache.stages.info import describe, info

    content = info(cache)
    echo(content if as_json else describe(content))
