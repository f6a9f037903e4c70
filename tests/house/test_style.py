"""The habits that keep the house tidy: short files and functions, a word on every module, no loose ends."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("featcache", "tests", "benchmarks", "examples", "tools")
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
MAX_FILE, MAX_FUNCTION = 350, 60
# In two parts, so that this file may be checked like any other.
LOOSE_ENDS = re.compile("|".join(("TO" + "DO", "FIX" + "ME", "X" + "XX", "pragma: no " + "cover")))


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", FILES, ids=name)
def test_a_file_can_be_read_in_one_sitting(path: Path) -> None:
    text = path.read_text()
    lines, tree = text.splitlines(), ast.parse(text)
    assert len(lines) <= MAX_FILE
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= MAX_FUNCTION, f"{node.name} in line {node.lineno} has {length} lines"
    assert not [line for line in lines if LOOSE_ENDS.search(line)]
    if path.name not in ("__init__.py", "conftest.py"):
        assert ast.get_docstring(tree), "the module does not say what it is for"


@pytest.mark.parametrize("path", sorted((ROOT / "featcache").rglob("__init__.py")), ids=name)
def test_a_package_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))
