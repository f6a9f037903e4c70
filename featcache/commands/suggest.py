"""`featcache suggest`: which samples to label next."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from featcache.commands._common import PLACE, device_option, echo, examples, json_option, label_options

if TYPE_CHECKING:
    from featcache.location import Location


@click.command(
    "suggest",
    epilog=examples(
        "featcache suggest photos.zarr --n 20 --out next.csv",
        "featcache suggest runs/first --labels next.csv --n 20 --out more.csv",
    ),
)
@click.argument("place", type=PLACE, metavar="RUN|CACHE")
@click.option("--n", default=20, show_default=True, help="Number of samples.")
@click.option("--out", type=PLACE, help="The table, for example next.csv [default: print it].")
@label_options("beside those of RUN, or instead of those in CACHE")
@click.option("--cache", type=PLACE, help="The cache of RUN [default: where it was].")
@click.option("--split", help="The split to choose from [default: train, or that of RUN].")
@click.option("--strategy", default="auto", show_default=True, help="auto, cover or random.")
@click.option("--seed", default=0, show_default=True, help="Seed of every draw.")
@click.option("--trust", is_flag=True, help="Run the Python code that RUN names.")
@device_option
@json_option
def command(place: Location, n: int, out: Location | None, *, as_json: bool, **asked: Any) -> None:
    """Choose the samples to label next.

    With a RUN, they are those that cover what its model is not sure of. With a CACHE without labels, they
    cover all samples; with labels, a linear probe takes the place of the run.

    Fill in the column `label` of the table, and give the file to --labels of this command and of `train`.
    """
    from featcache.stages import suggest as stage

    found = stage.suggest(place, n, out=None if out is None else out.path, **asked)
    if as_json:
        echo({"suggestions": None if out is None else str(out), **asdict(found), "stop": found.forecast.stop})
        return
    written = f"suggestions: {out} ({len(found)} samples; fill in the column `label`)"
    echo("\n".join([*found.notes, found.forecast.text(), written]) if out else str(found))
