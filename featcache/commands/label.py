"""`featcache label`: replace the labels of a cache."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from featcache.commands._common import PLACE, echo, examples, json_option, label_options

if TYPE_CHECKING:
    from featcache.location import Location


@click.command(
    "label",
    epilog=examples(
        "featcache label photos.zarr --from labels.csv",
        "featcache label photos.zarr --from corrections.csv --update",
    ),
)
@click.argument("cache", type=PLACE)
@label_options("with which to replace those in CACHE", "--from", required=True)
@click.option("--update", is_flag=True, help="Keep the labels of samples that no FILE names.")
@click.option("--class-text", is_flag=True, help="Embed the class names with the text tower of the model.")
@json_option
def command(cache: Location, labels: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Replace the labels of CACHE by those of a table; no sample is computed again.

    A line of the table names a sample by its id, file name or path, and its class. An empty class takes the
    label back.
    """
    from featcache.errors import on_the_command_line
    from featcache.stages import label as stage

    own = stage.write_labels(cache, labels, **options)
    table = own.table
    content = {
        "cache": str(cache),
        "classes": list(table.class_names),
        "splits": {split: table.counts(split) for split in table.by_split},
        "warnings": [on_the_command_line(warning) for warning in own.warnings],
    }
    echo(content if as_json else stage.describe(own))
