"""Parse the commands of a study: `measure CACHE ... --out FILE` writes JSON, `table FILE` shows it."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

Call = Callable[[argparse.Namespace], None]


def main(
    text: str | None, arguments: Callable[[argparse.ArgumentParser], None], measure: Call, table: Call
) -> None:
    """Parse the command line and call `measure` or `table`; `arguments` adds those of `measure`."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    measured = commands.add_parser("measure")
    measured.add_argument("caches", nargs="+", type=Path)
    measured.add_argument("--out", type=Path, required=True)
    arguments(measured)
    measured.set_defaults(call=measure)
    printed = commands.add_parser("table")
    printed.add_argument("file", type=Path)
    printed.set_defaults(call=table)
    asked = parser.parse_args()
    asked.call(asked)
