"""The command line: find the command, run it, explain its errors. Each command is a file in `commands/`."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

import click

from featcache import __version__, commands
from featcache.commands._common import echo_aside, examples


class _Group(click.Group):
    """Print errors without a traceback and exit with 1; on a signal, exit with 128 and its number."""

    def invoke(self, ctx: click.Context) -> Any:
        from featcache.errors import FeatcacheError
        from featcache.signals import Ended, ending_cleanly

        try:
            with ending_cleanly():
                return super().invoke(ctx)
        except FeatcacheError as error:
            echo_aside(f"error: {error.text(command_line=True)}")
            ctx.exit(1)
        except Ended as ended:
            again = "repeat the command to continue (`featcache train` needs --resume)"
            click.echo(f"interrupted: by {ended}; {again}", err=True)
            ctx.exit(ended.code)
        except (OSError, MemoryError, RecursionError) as error:
            echo_aside(_limit(error))
            ctx.exit(1)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write every command with its whole first sentence; click cuts it to one line of the terminal."""
        rows = [(name, command.get_short_help_str(limit=1000)) for name, command in self.commands.items()]
        with formatter.section("Commands"):
            formatter.write_dl(sorted(rows))


def _limit(error: OSError | MemoryError | RecursionError) -> str:
    """Say in one sentence which limit of the machine or of a file was met; nothing more is known here."""
    if isinstance(error, OSError):
        where = f" ({error.filename})" if error.filename else ""
        return f"error: {error.strerror or error}{where}"
    if isinstance(error, MemoryError):
        return f"error: out of memory{f': {error}' if str(error) else ''}"
    return f"error: something is nested too deep: {error}"


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
