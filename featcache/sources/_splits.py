"""Find the split of a file or folder by its name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeVar

DEFAULT = "train"
_ORDER = ("train", "validation", "test")
_WORD = re.compile(
    r"(?:^|[^a-z])(train|test|validation|valid|val|dev)(?:ing|set|data)?(?![a-z])", re.IGNORECASE
)
_SHARD_NUMBER = re.compile(r"[-_.]?\d+(-of-\d+)?$")

T = TypeVar("T")


def split_name(name: str) -> str | None:
    """Return the split whose name is a word of `name`, or None; `val` and `dev` are `validation`.

    >>> split_name("train-00000-of-00002"), split_name("imagenet_val"), split_name("trainer")
    ('train', 'validation', None)
    """
    found = _WORD.search(name)
    if found is None:
        return None
    word = found[1].lower()
    return word if word in _ORDER else "validation"


def split_of(path: Path) -> str:
    """Return the split of a data set that is one file: the one in its name, else `train`."""
    return split_name(path.stem) or DEFAULT


def group_files(root: Path, files: Iterable[Path]) -> dict[str, list[Path]]:
    """Return sorted shards below `root` by split, which is in the file's name or else in its folders' names.

    If only some names have a split, each other file is put into a split of its own name, not into `train`.
    """
    named = {file: split_of_file(root, file) for file in sorted(files)}
    some_named = any(named.values())
    groups: dict[str, list[Path]] = {}
    for file, split in named.items():
        own = _SHARD_NUMBER.sub("", file.stem) or file.stem
        groups.setdefault(split or (own if some_named else DEFAULT), []).append(file)
    return groups


def in_order(splits: Mapping[str, T]) -> dict[str, T]:
    """Sort splits: train, validation, test, then others by name."""
    known = [name for name in _ORDER if name in splits]
    return {name: splits[name] for name in [*known, *sorted(set(splits) - set(known))]}


def split_of_file(root: Path, file: Path) -> str | None:
    """Return the split in the name of a file, else in those of its folders, nearest first."""
    parents = file.relative_to(root).parts[:-1]
    return next((split for name in (file.stem, *reversed(parents)) if (split := split_name(name))), None)
