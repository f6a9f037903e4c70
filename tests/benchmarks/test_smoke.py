"""Every benchmark runs in its short form, and says the same on screen and in JSON."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import common

ROOT = Path(__file__).parents[2]
OTHERWISE = {"__init__", "common", "mi", "peers"}
"""mi has no bound to hold a value against: tests/mi looks after it; peers is a part of read."""
SLOW = {"cluster", "extract", "scale", "startup", "experiment", "smaller", "train", "write"}
NAMES = sorted({path.stem for path in (ROOT / "benchmarks").glob("*.py")} - OTHERWISE)
FIELDS = {"contestant", "case", "value", "unit", "ratio", "bound"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in NAMES]
)
def test_the_short_form_runs(name: str, tmp_path: Path) -> None:
    found = tmp_path / "rows.json"
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", "--smoke", "--json", str(found)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(found.read_text())
    values = {(row["case"], row["contestant"]): row["value"] for row in rows}
    assert len(values) == len(rows) >= 2
    for row in rows:
        assert row.keys() == FIELDS
        assert f"| {row['contestant']} | " in done.stdout
        assert row["unit"] in done.stdout
        if row["value"] is None:
            assert row["ratio"] is None
            continue
        assert row["value"] > 0
        assert math.isclose(row["ratio"], row["value"] / values[row["case"], row["bound"]], rel_tol=2e-3), row
    assert done.stdout.count("\n| --- ") == len({row["case"] for row in rows})


def test_contestants_take_turns_and_those_not_installed_sit_out() -> None:
    turns: list[str] = []

    def contestant(name: str, *values: float) -> object:
        given = iter(values)
        return lambda: (turns.append(name), next(given))[1]

    found = common.interleaved(
        {"bound": contestant("bound", 9, 1, 2, 4), "peer": None, "ours": contestant("ours", 9, 1, 3, 8)}, 3
    )
    assert turns == ["bound", "ours"] * 4
    assert found == {"bound": [1, 2, 4], "peer": [], "ours": [1, 3, 8]}
    rows = common.Table("case", "s", "bound", found).rows()
    assert [(row["contestant"], row["value"], row["ratio"]) for row in rows] == [
        ("bound", 2, 1),
        ("peer", None, None),
        ("ours", 3, 1.5),
    ]
    assert "| peer | not installed | |" in common.Table("case", "s", "bound", found).markdown()
