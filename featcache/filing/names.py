"""Names of folders and files that every file system takes, and that no two classes or files share."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Sequence

_REFUSED = re.compile(r'[\x00-\x1f\x7f/\\:*?"<>|]')
"""Characters that Windows or a path on any system does not take in a name."""
_DEVICES = frozenset(
    ["con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))]
)
"""Names that Windows keeps for itself, with any ending."""
_LONGEST = 200
"""Bytes of a name. File systems take 255; the rest is for the number of a name that occurs twice."""


def safe(name: str) -> str:
    """Return a text as the name of a folder or file; commas, spaces inside and emoji stay as they are.

    Characters that a file system refuses become `_`, and so do dots at either end.

    >>> safe("cat, tabby"), safe("a/b"), safe("..."), safe(" owl. "), safe("con")
    ('cat, tabby', 'a_b', '___', 'owl_', 'con_')
    """
    kept = _REFUSED.sub("_", unicodedata.normalize("NFC", name)).strip()
    if kept.startswith("."):  # hidden, or the folder itself
        kept = "_" + kept[1:]
    bare = kept.rstrip(". ")
    kept = bare + "_" * (len(kept) - len(bare))
    if kept.partition(".")[0].casefold() in _DEVICES:
        kept += "_"
    return _shortened(kept) or "_"


def folder_names(classes: Sequence[str], taken: Collection[str] = ()) -> dict[str, str]:
    """Return a folder for each class; names that differ only by case, or became equal, get a number.

    `taken` are names that no class may get.

    >>> folder_names(["Cat", "cat", "a/b", "a:b"])
    {'Cat': 'Cat', 'cat': 'cat (2)', 'a/b': 'a_b', 'a:b': 'a_b (2)'}
    """
    names = _numbered([safe(name) for name in classes], taken)
    return dict(zip(classes, names, strict=True))


def file_names(paths: Sequence[str]) -> list[str]:
    """Return a name for each of several files in one folder, from their relative POSIX paths.

    A file keeps its own name, unless another has the same one. Then the name says the folders as well.

    >>> file_names(["day1/a.png", "day2/A.png", "day2/b.png"])
    ['day1__a.png', 'day2__A.png', 'b.png']
    """
    own = [safe(path.rpartition("/")[2]) for path in paths]
    often = Counter(_key(name) for name in own)
    long = [safe(path.replace("/", "__")) for path in paths]
    return _numbered([a if often[_key(a)] == 1 else b for a, b in zip(own, long, strict=True)])


def _numbered(names: Iterable[str], taken: Collection[str] = ()) -> list[str]:
    """Add ` (2)` and so on to a name that an earlier one equals, without regard to case."""
    used, found = {_key(name) for name in taken}, []
    for name in names:
        stem, dot, ending = name.rpartition(".")
        stem, ending = (stem, dot + ending) if stem else (name, "")
        unique, number = name, 1
        while _key(unique) in used:
            number += 1
            unique = f"{stem} ({number}){ending}"
        used.add(_key(unique))
        found.append(unique)
    return found


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name.casefold())


def _shortened(name: str) -> str:
    """Shorten a name to so many bytes; the ending of a file stays."""
    if len(name.encode()) <= _LONGEST:
        return name
    stem, dot, ending = name.rpartition(".")
    ending = dot + ending if stem and len(ending.encode()) < 20 else ""
    room = _LONGEST - len(ending.encode())
    return name.encode()[:room].decode(errors="ignore").rstrip(". ") + ending
