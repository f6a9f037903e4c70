"""`featcache copy`: make a cache of another one, or of a part of it."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from featcache.commands._common import PLACE, echo, examples, json_option
from featcache.flags import OptionsCommand

if TYPE_CHECKING:
    from featcache.exchange.options import CopyOptions
    from featcache.location import Location


class _CopyCommand(OptionsCommand):
    @staticmethod
    def options() -> type[CopyOptions]:
        from featcache.exchange.options import CopyOptions

        return CopyOptions


@click.command(
    "copy",
    cls=_CopyCommand,
    epilog=examples(
        "featcache copy photos.zarr small.zarr --tokens grid:4x4 --dtype int8",
        "featcache copy photos.zarr pets.zarr --classes 'cat|dog' --rows 1000",
    ),
)
@click.argument("cache", type=PLACE)
@click.argument("out", type=PLACE)
@click.option("--overwrite", is_flag=True, help="Replace an existing cache.")
@json_option
def command(cache: Location, out: Location, *, overwrite: bool, as_json: bool, **options: Any) -> None:
    """Copy CACHE, or a part of it, to OUT.

    What no option names stays as it is, byte for byte. If the command is interrupted, repeat it to continue.
    """
    from featcache.exchange.options import CopyOptions
    from featcache.progress import bar
    from featcache.stages.copy import run_copy

    summary = run_copy(cache, out, CopyOptions.of(options), overwrite=overwrite, progress=bar)
    echo({"cache": str(out), **asdict(summary)} if as_json else f"{summary.describe()}\ncache: {out}")
