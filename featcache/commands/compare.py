"""`featcache compare`: the table of a study from run folders."""

from __future__ import annotations

import click

from featcache.commands._common import echo, examples, json_option


@click.command(
    "compare",
    epilog=examples(
        "featcache compare runs/linear runs/twinturbo",
        "featcache compare 'runs/**'",
    ),
)
@click.argument("runs", nargs=-1, required=True)
@json_option
def command(runs: tuple[str, ...], as_json: bool) -> None:
    """Compare finished RUNS: folders, or patterns such as 'runs/**'.

    Prints one row for each method, label budget and cache. The runs may come from any command.
    """
    from featcache.report.compare import compare

    comparison = compare(runs)
    echo(comparison.as_dict() if as_json else repr(comparison).rstrip())
