"""`featcache repair`: write the damaged and missing files of a cache again, from its source and model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from featcache.commands._common import PLACE, device_option, echo, examples, json_option

if TYPE_CHECKING:
    from featcache.location import Location


@click.command(
    "repair",
    epilog=examples("featcache repair photos.zarr", "featcache repair photos.zarr --source /new/photos"),
)
@click.argument("cache", type=PLACE)
@click.option("--source", help="Where the source is now [default: as recorded in CACHE].")
@click.option("--model", help="The model that CACHE was extracted with [default: as recorded in CACHE].")
@device_option
@json_option
def command(cache: Location, as_json: bool, **options: Any) -> None:
    """Write what is damaged or missing in CACHE again, from its source and model.

    Only the damaged units are computed. Source and model must be those that CACHE was made with. The exit
    code is 0 only if everything is whole afterwards.
    """
    from featcache.stages.repair import repair

    repaired = repair(cache, **options)
    echo(repaired.as_dict() if as_json else repaired.describe())
    if not repaired.after.whole:
        raise SystemExit(1)
