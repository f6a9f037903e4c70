"""Every command and option has help, and stands in docs/cli.md as `--help` says it."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from featcache.cli import main
from featcache.config import parse_overrides
from featcache.extraction.options import ExtractOptions
from featcache.stages import pipeline
from featcache.training.recipe import parse_options

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("command", main.commands.values(), ids=lambda command: str(command.name))
def test_a_command_and_its_options_have_help(command: click.Command) -> None:
    assert command.help
    parameters = command.get_params(click.Context(command))
    options = [parameter for parameter in parameters if isinstance(parameter, click.Option)]
    assert [option.name for option in options if not option.help] == []
    arguments = [parameter for parameter in parameters if isinstance(parameter, click.Argument)]
    names = [name for one in arguments for name in (one.metavar or str(one.name).upper()).split("|")]
    assert [name for name in names if name not in command.help] == []


def example_lines(command: click.Command) -> list[list[str]]:
    lines = [line.strip() for line in (command.epilog or "").splitlines()]
    return [shlex.split(line) for line in lines if line.startswith("featcache ")]


@pytest.mark.parametrize("command", [main, *main.commands.values()], ids=lambda command: str(command.name))
def test_help_ends_with_two_examples_that_can_be_called(command: click.Command) -> None:
    """Each example is parsed as a call would be: its options exist and take these values."""
    found = example_lines(command)
    assert len(found) == 2
    for _, name, *arguments in found:
        called = main.commands[name]
        assert called is command or command is main
        if "--help" in arguments:
            continue
        given = called.make_context(name, list(arguments)).params
        overrides = parse_overrides(given.get("pairs", ()))
        if name == "run":
            known = given["pipeline"] if given["pipeline"] != "study.toml" else "quickstart"
            assert pipeline.load(known, overrides)
        elif "pairs" in given:
            parse_options(given["objective"], overrides)
        if name == "extract":
            ExtractOptions.of({key: given[key] for key in ExtractOptions.model_fields})


@pytest.mark.parametrize("width", [60, 80])
def test_the_list_of_commands_cuts_no_description(width: int) -> None:
    context = click.Context(main, info_name="featcache", terminal_width=width)
    shown = " ".join(main.get_help(context).split())
    for command in main.commands.values():
        assert command.get_short_help_str(limit=1000) in shown


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
