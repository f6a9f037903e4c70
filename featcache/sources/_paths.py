"""Expand paths to several files: a folder, a glob pattern, or braces as in WebDataset's shard lists."""

from __future__ import annotations

import glob
import re
from pathlib import Path

from featcache.errors import SourceError
from featcache.sources._scan import describe_left_out, walk

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


def matches(path: Path, suffix: str) -> bool:
    """Return True for a file with the suffix in any case, a pattern of one, or a folder with one.

    Folders are searched at most two levels down.
    """
    if path.is_dir():
        return any(_fits(entry.name, suffix) for entry in walk(path, depth=2))
    return path.suffix.lower() == suffix and any(file.is_file() for file in spelled(path))


def expand(path: Path, suffix: str) -> tuple[Path, list[Path]]:
    """Return the folder that ids are relative to, and the files that `path` stands for, in order.

    Raise SourceError if there are none, or if one that a pattern spells out or a link leads to is missing.
    """
    if path.is_dir():
        root = path
        files = sorted(path / entry.name for entry in walk(path) if _fits(entry.name, suffix))
    else:
        root, files = _fixed_parent(path), spelled(path)
    if not files:
        raise SourceError(f"no {suffix} files found", got=str(path), expected=f"at least one {suffix} file")
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise SourceError(
            f"{len(missing)} of {len(files)} files are missing, or no files",
            got=", ".join(missing[:5]),
            expected=str(path),
        )
    return root, files


def left_beside(path: Path, suffix: str) -> tuple[str, ...]:
    """Return a sentence on the files in a folder of shards that are none, if there are any."""
    names = [entry.name for entry in walk(path) if not _fits(entry.name, suffix)] if path.is_dir() else []
    return (note,) if (note := describe_left_out(names)) else ()


def _fits(name: str, suffix: str) -> bool:
    return name.lower().endswith(suffix)


def expand_braces(pattern: str) -> list[str]:
    """Return all names that a brace pattern spells.

    >>> expand_braces("{train,val}-{08..10}.tar")[:4]
    ['train-08.tar', 'train-09.tar', 'train-10.tar', 'val-08.tar']
    """
    braces = _BRACES.search(pattern)
    if braces is None:
        return [pattern]
    head, tail = pattern[: braces.start()], pattern[braces.end() :]
    return [head + middle + rest for middle in _alternatives(braces[1]) for rest in expand_braces(tail)]


def _alternatives(inside: str) -> list[str]:
    """Return the alternatives inside braces: a list by commas, or a range of numbers."""
    numbers = _RANGE.fullmatch(inside)
    if numbers is None:
        return inside.split(",")
    first, last = numbers.groups()
    return [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]


def spelled(path: Path) -> list[Path]:
    """Return the files of a pattern, with the names that braces spell even if there is no such file."""
    if path.is_file():
        return [path]
    return [Path(name) for word in expand_braces(str(path)) for name in sorted(glob.glob(word)) or [word]]


def _fixed_parent(path: Path) -> Path:
    """Return the nearest folder above a pattern whose name has no signs of a pattern."""
    if path.is_file():
        return path.parent
    return next(parent for parent in path.parents if not any(sign in str(parent) for sign in "*?[{"))
