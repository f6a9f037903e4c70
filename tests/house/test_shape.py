"""The shape of the house: no circle of imports, no room or door that is too large."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import featcache

ROOT = Path(featcache.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
MAX_CLASS, MAX_PARAMETERS = 120, 6


def module_of(path: Path) -> str:
    parts = ("featcache", *path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in FILES}


def imported(path: Path) -> set[str]:
    """Every module of featcache that a file names in an import: also in functions and for type checking."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found & MODULES.keys()


def test_no_import_leads_back() -> None:
    # The front door imports everything, on demand and for type checking, and nothing imports the front door
    # for more than its version.
    graph = {name: imported(path) - {"featcache"} for name, path in MODULES.items() if name != "featcache"}
    done: set[str] = set()

    def walk(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join((*way[way.index(name) :], name))
        if name not in done:
            for other in graph[name]:
                if other != name:
                    walk(other, (*way, name))
            done.add(name)

    for name in graph:
        walk(name, ())
    assert done == graph.keys()


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_classes_and_parameter_lists_are_short(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ClassDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= MAX_CLASS, f"{node.name} has {length} lines"
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            own = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args)]
            count = len([name for name in own if name not in ("self", "cls")])
            assert count <= MAX_PARAMETERS, f"{node.name} takes {count} parameters besides keyword-only ones"


def test_a_docstring_begins_with_a_verb_or_a_noun() -> None:
    """A docstring that begins with one of these words asks a riddle instead of saying what the thing does."""
    riddles = ("What ", "Whether ", "Of ", "Which ", "Those ", "How many ", "How much ")
    found = []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                text = ast.get_docstring(node) or ""
                if text.startswith(riddles):
                    found.append(f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}: {text[:60]}")
    assert not found
