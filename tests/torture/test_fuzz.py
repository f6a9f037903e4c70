"""Every parser, fed for minutes with inputs near to good ones: a result or a sentence, soon."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.torture
ROOT = Path(__file__).parents[2]
PARSERS = (
    "csv",
    "hdf5",
    "image",
    "jsonl",
    "labels",
    "ledger",
    "metadata",
    "npy",
    "npz",
    "options",
    "parquet",
    "pipeline",
    "run",
    "tar",
    "txt",
)
MINUTES = 10


@pytest.mark.parametrize("parser", PARSERS)
def test_no_input_is_a_traceback_or_a_hang(
    tmp_path: Path, scale: float, figure: Callable[..., None], parser: str
) -> None:
    seconds = max(2.0, 60 * MINUTES * scale)
    command = [sys.executable, "-m", "tests.torture.fuzzing", parser, str(seconds), "0", str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    figure(f"inputs to `{parser}`", found.pop("inputs"), **found)
    assert found["tracebacks"] == found["hangs"] == 0, done.stderr
    assert found["megabytes"] < 1024
