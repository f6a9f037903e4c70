"""The synthetic cache: as functions, as a program of its own, and written once for tests that only read."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

PROGRAM = Path(__file__).with_name("synthetic.py")
ROOT = PROGRAM.parents[2]


@pytest.fixture(scope="session")
def synthetic() -> ModuleType:
    """The functions of `synthetic.py`."""
    found = importlib.util.spec_from_file_location("synthetic", PROGRAM)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def start() -> Callable[..., subprocess.Popen[str]]:
    """Start `synthetic.py` in a process of its own."""

    def run(*arguments: object, **options: Any) -> subprocess.Popen[str]:
        command = [sys.executable, "-W", "error", str(PROGRAM), *map(str, arguments)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        epoch = os.environ["SOURCE_DATE_EPOCH"]
        return subprocess.Popen(
            command,
            env={"PYTHONPATH": str(ROOT), "SOURCE_DATE_EPOCH": epoch},
            text=True,
            **(pipes | options),
        )

    return run


@pytest.fixture(scope="session")
def whole(synthetic: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete cache; not to be changed."""
    path = tmp_path_factory.mktemp("whole") / "whole.zarr"
    synthetic.write(path)
    return path
