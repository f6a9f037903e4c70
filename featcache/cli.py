"""The command line: find the command, run it, explain its errors. Each command is a file in `commands/`."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

import click

from featcache import __version__, commands
from featcache.commands._common import echo_aside, examples


class _Group(click.Group):
    """Print a FeatcacheError without a traceback and exit with 1; exit with 130 when interrupted."""

    def invoke(self, ctx: click.Context) -> Any:
        from featcache.errors import FeatcacheError

        try:
            return super().invoke(ctx)
        except FeatcacheError as error:
            echo_aside(f"error: {error.text(command_line=True)}")
            ctx.exit(1)
        except KeyboardInterrupt:
            click.echo(
                "interrupted: repeat the command to continue (`featcache train` needs --resume)",
                err=True,
            )
            ctx.exit(130)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write every command with its whole first sentence; click cuts it to one line of the terminal."""
        rows = [(name, command.get_short_help_str(limit=1000)) for name, command in self.commands.items()]
        with formatter.section("Commands"):
            formatter.write_dl(sorted(rows))


@click.group(
    cls=_Group,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=examples("featcache run quickstart", "featcache train --help"),
)
@click.version_option(__version__)
def main() -> None:
    """Run a frozen foundation model once, keep its token embeddings, adapt from the cache."""


# Each file imports click only; heavy libraries are imported by the command that runs.
for module in pkgutil.iter_modules(commands.__path__):
    if not module.name.startswith("_"):
        main.add_command(importlib.import_module(f"{commands.__name__}.{module.name}").command)
