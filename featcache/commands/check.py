"""`featcache check`: find doubtful labels, duplicates, leaks and failed rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from featcache.commands._common import PLACE, echo, examples, json_option, label_options

if TYPE_CHECKING:
    from featcache.location import Location


@click.command(
    "check",
    epilog=examples(
        "featcache check photos.zarr", "featcache check runs/first --labels labels.csv --out doubtful.csv"
    ),
)
@click.argument("cache", metavar="CACHE|RUN", type=PLACE)
@label_options("to check instead of those of the cache or the run")
@click.option("--out", type=PLACE, help="A CSV file for the doubtful labels, to correct and use as labels.")
@click.option(
    "--near",
    default=0.25,
    show_default=True,
    help="Largest distance of near duplicates, as a share of that of usual neighbours; 0: only equal ones.",
)
@json_option
def command(
    cache: Location, labels: tuple[str, ...], out: Location | None, as_json: bool, **options: Any
) -> None:
    """Find doubtful labels, duplicates, leaks and failed rows in CACHE, or in the cache of RUN.

    A label is doubtful if models that did not see it hold another class ten times as probable: those of RUN,
    or linear probes. Findings are no error: the exit code is 0.
    """
    from featcache.stages.check import check

    findings = check(cache, labels=labels, out=out, **options)
    echo(findings.as_dict() if as_json else findings.describe())
