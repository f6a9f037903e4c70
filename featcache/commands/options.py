"""`featcache options`: every option of a training."""

from __future__ import annotations

from dataclasses import asdict

import click

from featcache.commands._common import echo, examples, json_option, terminal_width


@click.command("options", epilog=examples("featcache options", "featcache options twinturbo"))
@click.argument("objective", required=False)
@json_option
def command(objective: str | None, as_json: bool) -> None:
    """List every option of a training that `--set` reaches: default, values and meaning.

    With OBJECTIVE, its own options (`objective.NAME`) come first.
    """
    from featcache.stages import options as stage

    found = stage.list_options(objective)
    content = {"options": [asdict(facts) for facts in found]}
    echo(content if as_json else stage.describe(found, terminal_width()))
