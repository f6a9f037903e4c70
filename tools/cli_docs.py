"""Write docs/cli.md from the commands; with `--check`, only report whether it is up to date."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from featcache.cli import main as featcache

PAGE = Path(__file__).parents[1] / "docs" / "cli.md"
HEAD = """# Commands

This is the output of `featcache COMMAND --help`, written by `tools/cli_docs.py`. Exit codes: 0 on success;
1 on an error, with a message of four parts (what was wrong, got, expected, next); 2 for a wrong call.
"""


def render() -> str:
    """Return the whole page."""
    settings = dict(featcache.context_settings, terminal_width=110, max_content_width=110)
    context = click.Context(featcache, info_name="featcache", **settings)
    parts = [HEAD, block(featcache, context)]
    for name, command in featcache.commands.items():
        own = click.Context(command, context, name, **settings)
        parts += [f"## featcache {name}\n", block(command, own)]
    return "\n".join(parts)


def block(command: click.Command, context: click.Context) -> str:
    """Return a command's help as a block of text."""
    return f"```text\n{command.get_help(context)}\n```\n"


def main() -> int:
    """Write the page, or compare it."""
    page = render()
    if sys.argv[1:] != ["--check"]:
        PAGE.write_text(page)
        return 0
    if PAGE.exists() and PAGE.read_text() == page:
        return 0
    print(f"{PAGE.name} is out of date: run python tools/cli_docs.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
