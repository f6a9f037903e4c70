"""Make the label table of a cache from a user's files."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from featcache.cache.labels import LabelTable, renumbered
from featcache.cache.reader import CacheReader
from featcache.errors import LabelError, option
from featcache.labels.files import Given, read_given, spelling_warnings, two_labels
from featcache.labels.match import Matcher, Row
from featcache.location import Location

_SHOWN = 10
LabelFiles = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


@dataclass(frozen=True)
class OwnLabels:
    """A label table made from files, and what is to be said about it."""

    table: LabelTable
    warnings: tuple[str, ...]


def read_labels(
    files: LabelFiles,
    cache: CacheReader,
    *,
    ignore_unmatched: bool = False,
    label_column: str | None = None,
    update: bool = False,
) -> OwnLabels:
    """Read the labels of a cache from one or more tables; a later file wins over an earlier one.

    A line names a sample by its id, file name or path, and gives its class name. An empty name takes the
    label back. The classes are those of the labels, numbers in numerical order, else sorted by name. With
    `update`, the cache's own labels stay where the files say nothing.

    Raise LabelError if a name fits no sample or several (`ignore_unmatched` leaves these out), if a file
    gives a sample two labels, or if nothing is labelled.
    """
    paths = [files] if isinstance(files, str | os.PathLike) else list(files)
    given = [read_given(Location.of(path).path, label_column) for path in paths]
    splits = {name: cache.split(name) for name in cache.split_names}
    matched, strange = _matched(given, Matcher({name: split.ids for name, split in splits.items()}))
    lines = sum(map(len, given))
    known = [key for split in splits.values() for key in split.ids[:10_000]]
    if strange and not ignore_unmatched:
        raise _unmatched(strange, lines, known)
    old = cache.labels if update else LabelTable()
    names = _ordered(line.name for line in matched.values() if line.name is not None)
    names = (*old.class_names, *(name for name in names if name not in old.class_names))
    place = {name: index for index, name in enumerate(names)}
    labels = {name: old.of(name, split.rows).copy() for name, split in splits.items()}
    for (split, row), line in matched.items():
        labels[split][row] = -1 if line.name is None else place[line.name]
    chosen = sum(line.chosen and line.name is not None for line in matched.values())
    table = _without_unused(LabelTable(names, labels, max(chosen, old.chosen)))
    if not table.class_names:
        got = f"{lines} lines without a class name" if matched else "no line that fits a sample"
        raise LabelError("the files label no sample", got=got, expected="at least one sample with a class")
    warnings = spelling_warnings(table.class_names)
    if strange:
        warnings.append(f"{len(strange)} of {lines} labels fit no sample, or several, and are left out")
    return OwnLabels(table, tuple(warnings))


def _matched(
    given: Sequence[Sequence[Given]], matcher: Matcher
) -> tuple[dict[Row, Given], list[tuple[Given, int]]]:
    """Return the line of each row, and the lines that fit no row or several, with the number of rows.

    `given` are the lines of each file.
    """
    matched: dict[Row, Given] = {}
    strange = []
    for lines in given:
        own: dict[Row, Given] = {}
        for line in lines:
            rows = matcher.find(line.key, line.split)
            if len(rows) != 1:
                strange.append((line, len(rows)))
            elif (first := own.setdefault(rows[0], line)).name != line.name:
                raise two_labels(first, line)  # named in two ways: by file name and by path, say
        matched |= own
    return matched, strange


def _ordered(names: Iterable[str]) -> tuple[str, ...]:
    """Sort class names: whole numbers by value, others as text.

    >>> _ordered(["10", "9", "9"]), _ordered(["b", "10", "9"])
    (('9', '10'), ('10', '9', 'b'))
    """
    distinct = {*names}
    numbers = all(name.isdecimal() for name in distinct)
    return tuple(
        sorted(distinct, key=(lambda name: (int(name), name)) if numbers else (lambda name: (0, name)))
    )


def _without_unused(table: LabelTable) -> LabelTable:
    """Leave out the classes that no sample has."""
    used = {c for labels in table.by_split.values() for c in np.unique(labels[labels >= 0]).tolist()}
    names = tuple(name for index, name in enumerate(table.class_names) if index in used)
    by_split = {
        split: renumbered(labels, table.class_names, names) for split, labels in table.by_split.items()
    }
    return LabelTable(names, by_split, table.chosen)


def _unmatched(strange: Sequence[tuple[Given, int]], lines: int, known: Sequence[str]) -> LabelError:
    listed = [
        f"`{line.key}` ({line.where}) fits {f'{rows} samples' if rows else 'no sample'}"
        for line, rows in strange[:_SHOWN]
    ]
    if len(strange) > _SHOWN:
        listed.append(f"and {len(strange) - _SHOWN} more")
    several = any(rows for _, rows in strange)
    near = difflib.get_close_matches(strange[0][0].key, known, n=1) or known[:1]
    hint = (
        "write more of the path, or add a column `split`"
        if several
        else f"the cache has ids like `{near[0]}`"
    )
    return LabelError(
        f"{len(strange)} of {lines} labels cannot be matched to a sample",
        got="; ".join(listed),
        expected="sample ids, file names or paths of the cache",
        hint=f"{hint}, or leave these labels out with {option('ignore_unmatched', True)}",
    )
