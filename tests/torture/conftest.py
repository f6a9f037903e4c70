"""What the torture needs: a scale, a forge of processes, faults, and a table of figures at the end."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.torture.commands import prepare
from tests.torture.processes import Forge

HERE = Path(__file__).parent
FIGURE = "figure"


@pytest.fixture(scope="session")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that fails changes of files, compiled."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("faults are made on Linux, with a C compiler")
    library = tmp_path_factory.mktemp("faults") / "faults.so"
    command = [compiler, "-shared", "-fPIC", "-Wall", "-Werror", "-o", library, HERE / "faults.c", "-ldl"]
    subprocess.run(command, check=True)
    return library


@pytest.fixture(scope="module")
def forge(tmp_path_factory: pytest.TempPathFactory, faults: Path) -> Iterator[Forge]:
    """Runs commands, each in a process of its own."""
    made = Forge(tmp_path_factory.mktemp("forge"), faults)
    yield made
    made.close()


@pytest.fixture(scope="module")
def prepared(forge: Forge, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with caches, a run and tables; not to be changed."""
    folder = tmp_path_factory.mktemp("prepared")

    def run(*arguments: object) -> None:
        ended = forge(*arguments)
        assert ended.code == 0, ended.err

    prepare(run, folder)
    return folder


@pytest.fixture(scope="session")
def scale(pytestconfig: pytest.Config) -> float:
    """1 is the whole torture."""
    return float(pytestconfig.getoption("--scale"))


@pytest.fixture(scope="session")
def count(scale: float) -> Callable[..., int]:
    """How many times, at this scale, and at least `least` times."""
    return lambda whole, least=3: max(least, round(whole * scale))


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """Seeded by the name of the test."""
    return random.Random(request.node.nodeid)


@pytest.fixture
def figure(record_property: Callable[[str, object], None]) -> Callable[..., None]:
    """Keeps a line of the table at the end: what was done, how often, and what came of it."""
    return lambda what, times, **found: record_property(FIGURE, [what, times, found])


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the figures as a table, as docs/reliability.md shows it."""
    reports = [
        r for some in terminalreporter.stats.values() for r in some if getattr(r, "when", "") == "call"
    ]
    rows = [value for r in reports for name, value in r.user_properties if name == FIGURE]
    if rows:
        terminalreporter.section("figures")
        terminalreporter.write_line("| What | Times | Found |\n| --- | ---: | --- |")
    for what, times, found in sorted(rows):
        said = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in found.items())
        terminalreporter.write_line(f"| {what} | {times:,} | {said} |")
