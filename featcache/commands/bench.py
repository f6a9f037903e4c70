"""`featcache bench`: measure what limits this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from featcache.commands._common import PLACE, device_option, echo, examples, json_option

if TYPE_CHECKING:
    from featcache.location import Location


@click.command(
    "bench",
    epilog=examples(
        "featcache bench photos.zarr",
        "featcache bench photos.zarr --objective freematch --set optim.batch_size=64",
    ),
)
@click.argument("cache", type=PLACE)
@click.option("--objective", default="twinturbo", show_default=True, help="The method whose steps to time.")
@click.option(
    "--set",
    "pairs",
    multiple=True,
    metavar="KEY=VALUE",
    help="An option of the training, for example optim.batch_size=64.",
)
@click.option("--source", help="The source that CACHE was extracted from [default: as recorded in CACHE].")
@click.option("--model", help="The model that CACHE was extracted with [default: as recorded in CACHE].")
@device_option
@json_option
def command(cache: Location, pairs: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Measure what limits training from and extraction of CACHE on this machine, and which options help.

    Takes less than a minute and writes nothing. A sample is one row in one view. The effect of an option is
    measured if that is cheap.
    """
    from featcache.config import parse_overrides
    from featcache.stages import bench as stage

    measured = stage.bench(cache, options=parse_overrides(pairs), **options)
    echo(measured.as_dict() if as_json else measured.describe(command_line=True))
