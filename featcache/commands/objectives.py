"""`featcache objectives`: every method that can be trained."""

from __future__ import annotations

from dataclasses import asdict

import click

from featcache.commands._common import echo, examples, json_option, terminal_width


@click.command("objectives", epilog=examples("featcache objectives", "featcache objectives --json"))
@json_option
def command(as_json: bool) -> None:
    """List every objective: its name, what it does and the paper. Those of installed packages are included.

    A name is a value of `featcache train --objective`.
    """
    from featcache.stages import objectives as stage

    found = stage.list_objectives()
    content = {"objectives": [asdict(facts) for facts in found]}
    echo(content if as_json else stage.describe(found, terminal_width()))
