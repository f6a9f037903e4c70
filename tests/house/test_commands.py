"""Every command and option has help, and stands in docs/cli.md as `--help` says it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest

from featcache.cli import main

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("command", main.commands.values(), ids=lambda command: str(command.name))
def test_a_command_and_its_options_have_help(command: click.Command) -> None:
    assert command.help
    parameters = command.get_params(click.Context(command))
    options = [parameter for parameter in parameters if isinstance(parameter, click.Option)]
    assert [option.name for option in options if not option.help] == []
    arguments = [parameter for parameter in parameters if isinstance(parameter, click.Argument)]
    assert [argument.name for argument in arguments if str(argument.name).upper() not in command.help] == []


@pytest.mark.parametrize("tool", ["cli_docs.py", "result_tables.py"])
def test_what_a_tool_writes_is_up_to_date(tool: str) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / tool), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_page_of_commands_names_every_one() -> None:
    page = (ROOT / "docs" / "cli.md").read_text()
    assert [name for name in main.commands if f"## featcache {name}\n" not in page] == []
