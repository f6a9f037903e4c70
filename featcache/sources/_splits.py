"""Which split a file or folder belongs to, by its name."""

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
    """The split that `name` speaks of as a word of its own, `val` and `dev` being `validation`; None if it
    does not.

    >>> split_name("train-00000-of-00002"), split_name("imagenet_val"), split_name("trainer")
    ('train', 'validation', None)
    """
    found = _WORD.search(name)
    if found is None:
        return None
    word = found[1].lower()
    return word if word in _ORDER else "validation"


def split_of(path: Path) -> str:
    """The split of a data set that is one file: as its name says, else `train`."""
    return split_name(path.stem) or DEFAULT


def group_files(root: Path, files: Iterable[Path]) -> dict[str, list[Path]]:
    """Shards below `root` by split, each list sorted; the file's name counts first, then its folder's.

    Where some name a split and others do not, those others stay apart under their own name, never in `train`.
    """
    named = {file: _named(root, file) for file in sorted(files)}
    some_named = any(named.values())
    groups: dict[str, list[Path]] = {}
    for file, split in named.items():
        own = _SHARD_NUMBER.sub("", file.stem) or file.stem
        groups.setdefault(split or (own if some_named else DEFAULT), []).append(file)
    return groups


def in_order(splits: Mapping[str, T]) -> dict[str, T]:
    """Train, validation, test, then others by name."""
    known = [name for name in _ORDER if name in splits]
    return {name: splits[name] for name in [*known, *sorted(set(splits) - set(known))]}


def _named(root: Path, file: Path) -> str | None:
    parents = file.relative_to(root).parts[:-1]
    return next((split for name in (file.stem, *reversed(parents)) if (split := split_name(name))), None)
