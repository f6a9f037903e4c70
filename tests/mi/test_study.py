"""The study on Gaussians runs in its short form, and prints the tables of docs/mi.md."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import mi

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_short_form_runs(tmp_path: Path) -> None:
    found = tmp_path / "rows.json"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.mi", "--smoke", "--json", str(found)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(found.read_text())
    assert len(rows) == 2 * len(mi.DIMS) * len(mi.RHOS) * len(mi.NAMES)
    assert all(math.isfinite(row["mean"]) and row["error"] >= 0 for row in rows)
    assert done.stdout.count("\n| ") == 2 * (2 + len(mi.DIMS) * len(mi.RHOS))


def test_the_true_ratio_and_decoder_are_true() -> None:
    generator = torch.Generator().manual_seed(0)
    for dim, rho in ((1, 0.5), (5, 0.6)):
        found = mi.optimal(dim, rho, mi.Size(100, 1, 1, 1), generator)
        for name in ("NWJ", "Barber-Agakov"):
            error = found[name].std().item() / 10
            assert found[name].mean().item() == pytest.approx(mi.information(dim, rho), abs=4 * error)


def test_the_page_shows_every_case() -> None:
    page = (ROOT / "docs" / "mi.md").read_text()
    assert "python -m benchmarks.mi\n" in page
    lines = re.findall(r"^\| (\d+) \| ([\d.]+) \| ([\d.]+) \|", page, re.MULTILINE)
    cases = [(f"{d}", f"{rho:g}", f"{mi.information(d, rho):.2f}") for d in mi.DIMS for rho in mi.RHOS]
    assert lines == cases * 2
