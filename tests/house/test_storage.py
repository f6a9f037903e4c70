"""In `cache/`, only the storage and the memory map touch the operating system: held by reading every file."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import featcache

CACHE = Path(featcache.__file__).parent / "cache"
ALLOWED = {"storage", "array", "readahead"}
MODULES = {
    *(
        "os",
        "io",
        "shutil",
        "mmap",
        "tempfile",
        "filelock",
        "fcntl",
        "glob",
        "resource",
        "stat",
        "subprocess",
    ),
    *("socket", "featcache.files"),
}
CALLS = {"open", "exec", "eval", "__import__"}
METHODS = {
    *("read_bytes", "read_text", "write_bytes", "write_text", "unlink", "mkdir", "rmdir", "rename", "touch"),
    *(
        "exists",
        "is_dir",
        "is_file",
        "is_symlink",
        "iterdir",
        "rglob",
        "glob",
        "walk",
        "stat",
        "lstat",
        "chmod",
    ),
    *(
        "resolve",
        "absolute",
        "expanduser",
        "samefile",
        "symlink_to",
        "hardlink_to",
        "readlink",
        "cwd",
        "home",
    ),
    *("fsync", "madvise", "tofile", "fromfile", "memmap", "open_memmap", "import_module"),
}
OPENERS = {"ShardedArray", "CacheReader", "SplitReader", "SplitWriter", "cls"}
"""Classes with an `open` of their own, which takes a storage."""


def touches(tree: ast.AST) -> Iterator[str]:
    """Every place at which a module may touch the operating system."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            names = []
        yield from (f"{node.lineno}: import {name}" for name in names if name.split(".")[0] in MODULES)
        yield from (f"{node.lineno}: import {name}" for name in names if name in MODULES and "." in name)
        if isinstance(node, ast.Name) and node.id in CALLS:
            yield f"{node.lineno}: {node.id}"
        if isinstance(node, ast.Attribute):
            owner = node.value.id if isinstance(node.value, ast.Name) else ""
            if node.attr in METHODS or (node.attr == "open" and owner not in OPENERS):
                yield f"{node.lineno}: .{node.attr}"
        # `str.replace` takes two arguments, `Path.replace` one.
        arguments = len(node.args) + len(node.keywords) if isinstance(node, ast.Call) else 0
        if arguments == 1 and isinstance(node.func, ast.Attribute) and node.func.attr == "replace":
            yield f"{node.lineno}: .replace"


@pytest.mark.parametrize("path", sorted(CACHE.rglob("*.py")), ids=lambda path: path.stem)
def test_only_the_storage_and_the_memory_map_touch_the_system(path: Path) -> None:
    found = list(touches(ast.parse(path.read_text())))
    if path.stem in ALLOWED:
        assert found, f"{path.stem} touches nothing: take it off the list"
    else:
        assert found == []


@pytest.mark.parametrize(
    "code",
    [
        "import os",
        "import os.path",
        "from os import path",
        "from featcache import files",
        "from featcache.files import sync",
        "open('x')",
        "path.open()",
        "(path / 'x').read_bytes()",
        "read = path.read_bytes",
        "path.replace(other)",
        "for name in path.iterdir(): pass",
    ],
)
def test_the_test_sees_it(code: str) -> None:
    assert list(touches(ast.parse(code)))


def test_the_test_lets_pass_what_is_harmless() -> None:
    code = (
        "CacheReader.open(storage).split('x'); name.replace('a', 'b'); storage.read('x'); storage.delete('x')"
    )
    assert not list(touches(ast.parse(code)))
