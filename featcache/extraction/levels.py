"""Find the level of folders that is the class: tell batches, dates and containers from classes."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

_CONTAINER = re.compile(
    "images?|imgs?|photos?|pictures?|pics?|data|datasets?|raw|new|old|final|misc|files?|all|jpe?g|png|tiff?"
    "|scans?|exports?|outputs?|inputs?|batch|batches|experiments?|folder|unnamed|untitled|backup|copy|dcim"
)
_COUNTED = re.compile(
    "exp|run|day|week|session|slide|patient|series|part|set|rep|replicate|well|scene|cam|camera|site|fold"
    "|chunk|shard|tile|stack|position|pos|section|sample|subject|plate|group|round|block|visit|rack|tray|lot"
    "|jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec"
)
"""Words that name a batch where a number follows: `plate` may be a class of tableware, `plate1` is not."""
_WORD = re.compile(r"[^\W\d_]+|\d+")
_DATE = re.compile(r"(19|20)\d\d([01]\d[0-3]\d)?")


class Level(NamedTuple):
    """A level of folders that may be the class."""

    names: tuple[str, ...]
    """Sorted."""
    pattern: str
    """As `label_from` takes it."""


def is_generic(name: str) -> bool:
    """Return True for the name of a batch, a date or a container, which says nothing of what is in it.

    >>> [name for name in ("2024 Exp1", "batch_3", "exp2_final", "plate", "plate1", "7") if is_generic(name)]
    ['2024 Exp1', 'batch_3', 'exp2_final', 'plate1']
    """
    words = _WORD.findall(name.casefold())
    numbers = [word for word in words if word.isdecimal()]
    letters = [word for word in words if not word.isdecimal()]
    dated = any(_DATE.fullmatch(number) for number in numbers)
    known = [_CONTAINER, _COUNTED] if numbers else [_CONTAINER]
    return (bool(letters) or dated) and all(any(w.fullmatch(word) for w in known) for word in letters)


def deeper_level(paths: Sequence[str]) -> Level | None:
    """Return the first level below the first one whose folders look like classes; else None.

    They do if at least two different names do not look generic, and one occurs in several first folders, or
    all first folders look generic.

    >>> deeper_level(["a/left/1.png", "a/right/2.png", "b/left/3.png"])
    Level(names=('left', 'right'), pattern='*/LABEL/**')
    """
    folders = [path.split("/")[:-1] for path in paths]
    generic = all(is_generic(parts[0]) for parts in folders if parts)
    for level in range(1, max(map(len, folders), default=0)):
        tops: dict[str, set[str]] = defaultdict(set)
        for parts in folders:
            if len(parts) > level:
                tops[parts[level]].add(parts[0])
        names = sorted(name for name in tops if not is_generic(name))
        if len(names) > 1 and (generic or any(len(tops[name]) > 1 for name in names)):
            return Level(tuple(names), "*/" * level + "LABEL/**")
    return None
