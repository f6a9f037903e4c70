"""Match samples as a user names them to the rows of a cache."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from featcache.shown import uncelled


class Row(NamedTuple):
    """A row of a cache."""

    split: str
    row: int


class Matcher:
    """Find the rows of samples that are named by id, file name or path.

    An id that equals the name comes first. Otherwise the name and an id match if one of them ends with all
    folders and the file name of the other; the longest such id is taken. Last, the extension may be missing.
    Names are compared in Unicode form NFC, with / for the backslash of Windows.

    >>> matcher = Matcher({"train": ["cat/1.png", "dog/1.png", "dog/2.png"]})
    >>> matcher.find(r"C:\\photos\\dog\\1.png")
    [Row(split='train', row=1)]
    >>> matcher.find("2"), len(matcher.find("1.png")), matcher.find("emu/2.png")
    ([Row(split='train', row=2)], 2, [])
    """

    def __init__(self, ids: Mapping[str, Sequence[str]]) -> None:
        self._exact: dict[str, list[Row]] = defaultdict(list)
        self._by_file: dict[str, list[tuple[tuple[str, ...], Row]]] = defaultdict(list)
        self._by_stem: dict[str, list[tuple[tuple[str, ...], Row]]] = defaultdict(list)
        for split, names in ids.items():
            for row, name in enumerate(names):
                parts, place = _parts(name), Row(split, row)
                self._exact[unicodedata.normalize("NFC", name)].append(place)
                self._by_file[parts[-1]].append((parts, place))
                stem = PurePosixPath(parts[-1]).stem
                if stem != parts[-1]:
                    self._by_stem[stem].append(((*parts[:-1], stem), place))

    def find(self, name: str, split: str | None = None) -> list[Row]:
        """Return the rows that a name fits equally well, in one split or in all: one if it is unambiguous."""
        plain = uncelled(name)  # as featcache itself writes an id into CSV
        for spelling in (name, plain):
            if exact := _within(self._exact.get(unicodedata.normalize("NFC", spelling), []), split):
                return exact
        parts = _parts(plain)
        return _longest(self._by_file.get(parts[-1], []), parts, split) or _longest(
            self._by_stem.get(parts[-1], []), parts, split
        )


def _parts(name: str) -> tuple[str, ...]:
    """Return folders and file name of a path; the name itself where nothing is left of it.

    >>> _parts("./a//b.png"), _parts("/")
    (('a', 'b.png'), ('/',))
    """
    path = unicodedata.normalize("NFC", name).replace("\\", "/")
    return tuple(part for part in path.split("/") if part not in ("", ".")) or (name,)


def _longest(
    candidates: Sequence[tuple[tuple[str, ...], Row]], parts: tuple[str, ...], split: str | None
) -> list[Row]:
    """Return the rows of which the most folders agree, if all folders of the shorter path do."""
    found: dict[int, list[Row]] = defaultdict(list)
    for other, place in candidates:
        common = min(len(parts), len(other))
        if parts[-common:] == other[-common:] and split in (None, place.split):
            found[common].append(place)
    return found[max(found)] if found else []


def _within(rows: Sequence[Row], split: str | None) -> list[Row]:
    return [row for row in rows if split in (None, row.split)]
