"""`featcache report`: a page of a run, or of several runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from featcache.commands._common import PLACE, device_option, echo, examples, json_option

if TYPE_CHECKING:
    from featcache.location import Location


@click.command(
    "report",
    epilog=examples("featcache report runs/first", "featcache report runs/quickstart --out study.html"),
)
@click.argument("runs", nargs=-1, required=True)
@click.option("--out", type=PLACE, default="report.html", show_default=True, help="The page, one HTML file.")
@click.option("--map", is_flag=True, help="Add a map of the samples, and write map.parquet beside the page.")
@click.option("--cache", type=PLACE, help="The cache of the run [default: where it was at the training].")
@click.option("--source", help="Where the samples are now [default: as recorded in the cache].")
@click.option("--split", help="The split to look at [default: the test split, or that of the training].")
@click.option("--trust", is_flag=True, help="Run the Python code that a run names.")
@device_option
@json_option
def command(runs: tuple[str, ...], out: Location, as_json: bool, **options: Any) -> None:
    """Write a page about one of RUNS, or about several: a file to look at and to hand on.

    RUNS are folders of runs or studies, or patterns such as 'runs/**'. The page needs no network. It shows
    accuracy, confusion, reliability, mistakes with their pictures, and for several runs a table with plots.
    """
    from featcache.stages.report import report

    written = report(runs, out, **options)
    lines = [written.content["title"], *written.content["notes"], f"report: {written.path}"]
    if written.map is not None:
        lines.append(f"map: {written.map}")
    echo(written.as_dict() if as_json else "\n".join(lines))
