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
@click.option(
    "--to",
    type=click.Choice(["text", "markdown", "csv", "latex"]),
    default="text",
    show_default=True,
    help="Form of the table; csv has the numbers as they are.",
)
@json_option
def command(runs: tuple[str, ...], to: str, as_json: bool) -> None:
    """Compare finished RUNS: folders, or patterns such as 'runs/**'.

    Prints one row for each method, label budget and cache. The runs may come from any command.
    """
    from featcache.results.compare import compare

    comparison = compare(runs)
    written = repr(comparison) if to == "text" else getattr(comparison, to)()
    echo(comparison.as_dict() if as_json else written.rstrip())
