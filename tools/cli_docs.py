"""Write docs/cli.md from the commands themselves; with `--check`, only say whether it is up to date."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from featcache.cli import main as featcache

PAGE = Path(__file__).parents[1] / "docs" / "cli.md"
HEAD = """# Commands

What `featcache COMMAND --help` prints, written by `tools/cli_docs.py`. Every command exits with 0 when it has
done its job; with 1 and a message (what was wrong, what was there, what was expected, what to do next) when
it has not; and with 2 when it was not called as below.
"""


def render() -> str:
    """The whole page."""
    names = featcache.context_settings["help_option_names"]
    context = click.Context(
        featcache,
        info_name="featcache",
        terminal_width=110,
        max_content_width=110,
        help_option_names=names,
    )
    parts = [HEAD, block(featcache, context)]
    for name, command in featcache.commands.items():
        own = click.Context(command, context, name, terminal_width=110, max_content_width=110)
        parts += [f"## featcache {name}\n", block(command, own)]
    return "\n".join(parts)


def block(command: click.Command, context: click.Context) -> str:
    """A command's help as a block of text."""
    return f"```text\n{command.get_help(context)}\n```\n"


def main() -> int:
    """Write the page, or compare it."""
    page = render()
    if sys.argv[1:] != ["--check"]:
        PAGE.write_text(page)
        return 0
    if PAGE.exists() and PAGE.read_text() == page:
        return 0
    print(f"{PAGE.name} is not what the commands say now: run python tools/cli_docs.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
