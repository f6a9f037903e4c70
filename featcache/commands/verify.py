"""`featcache verify`: reread a cache or a run, and compare every file with what was written."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from featcache.commands._common import PLACE, echo, examples, json_option

if TYPE_CHECKING:
    from featcache.location import Location


@click.command(
    "verify", epilog=examples("featcache verify photos.zarr", "featcache verify photos.zarr --quick")
)
@click.argument("place", metavar="CACHE|RUN", type=PLACE)
@click.option("--quick", is_flag=True, help="Do not reread shards: look at their sizes and indices only.")
@click.option("--adopt", is_flag=True, help="Write the checksums that a cache of an earlier version lacks.")
@json_option
def command(place: Location, quick: bool, adopt: bool, as_json: bool) -> None:
    """Compare every file of CACHE or RUN with what was written, by checksums.

    The exit code is 0 only if everything is whole.
    """
    from featcache.stages.verify import as_dict, describe, verify

    found = verify(place, quick=quick, adopt=adopt)
    echo(as_dict(found) if as_json else describe(found))
    if not found.whole:
        raise SystemExit(1)
