"""The notebook in `examples/` runs as a script, in an empty folder and without a screen."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[2] / "examples" / "digits.py"


@pytest.mark.slow
def test_digits_from_extraction_to_a_confusion_matrix(tmp_path: Path) -> None:
    environment = os.environ | {"MPLBACKEND": "Agg", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(NOTEBOOK)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    accuracy = {
        name: float(value.rstrip("%"))
        for name, _, value in (line.partition(": ") for line in done.stdout.splitlines())
        if name in ("linear", "twinturbo")
    }
    assert accuracy["twinturbo"] > accuracy["linear"] > 80
    assert (tmp_path / "confusion.png").read_bytes().startswith(b"\x89PNG")
