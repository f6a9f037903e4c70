"""Shared parts of the commands: places, JSON, examples and output."""

from __future__ import annotations

import json
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

Command = Callable[..., Any]

if TYPE_CHECKING:
    from featcache.location import Location


class _Place(click.ParamType[Any]):
    """A path; a URL is an error."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Location:
        from featcache.location import Location

        return Location.of(value)


PLACE = _Place()
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
device_option = click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")


def cluster_options(command: Command) -> Command:
    """Add the options that say which processes compute."""
    scheduler = click.option(
        "--scheduler", metavar="ADDRESS", help="A Dask scheduler that runs already, such as tcp://host:8786."
    )
    workers = click.option(
        "--workers",
        type=click.IntRange(1, 1024),
        help="Compute in so many processes of this machine, one for each GPU, or sharing the cores.",
    )
    return workers(scheduler(command))


def label_options(
    purpose: str, flag: str = "--labels", *, required: bool = False
) -> Callable[[Command], Command]:
    """Return the options of a command that reads tables of labels: files, column, what fits no sample."""
    text = f"A table of samples and class names, {purpose}; a later FILE wins."
    options = (
        click.option(flag, "labels", multiple=True, required=required, metavar="FILE", help=text),
        click.option("--label-column", help="The column of the class names [default: label, class, ...]."),
        click.option(
            "--ignore-unmatched", is_flag=True, help="Leave out lines that fit no sample, or several."
        ),
    )

    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def examples(*lines: str) -> str:
    """Return the end of a command's help: examples, each on a line of its own."""
    # Click wraps paragraphs, except those after a line with \\b.
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def echo(content: str | dict[str, Any]) -> None:
    """Print lines for a person, or values as JSON."""
    from featcache.shown import harmless

    click.echo(harmless(content) if isinstance(content, str) else json.dumps(content, indent=2))


def echo_aside(line: str) -> None:
    """Print a message, such as a warning, on stderr."""
    from featcache.shown import harmless

    click.echo(harmless(line), err=True)


@contextmanager
def told() -> Iterator[None]:
    """Print warnings for users on stderr, each as one line."""
    from featcache.errors import Notice

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", Notice)
        try:
            yield
        finally:
            for line in dict.fromkeys(str(each.message) for each in caught):
                echo_aside(f"warning: {line}")


def terminal_width() -> int:
    """Return the columns of the terminal; at most 110, and 110 where there is none."""
    return min(110, shutil.get_terminal_size((110, 24)).columns or 110)


def plain(summaries: Mapping[str, Any]) -> dict[str, Any]:
    """Return dataclasses by name as plain values, for JSON."""
    return {name: asdict(summary) for name, summary in summaries.items()}


def say_if_terminal() -> Callable[[str], None]:
    """Return a function that prints messages to stderr, if it is a terminal."""
    return echo_aside if sys.stderr.isatty() else (lambda line: None)
