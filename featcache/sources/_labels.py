"""Turn labels as found in files into class indices."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from featcache.config import did_you_mean
from featcache.errors import SourceError, option
from featcache.sources.base import UNLABELLED

LABEL_COLUMNS = ("label", "labels", "class", "target", "category", "fine_label", "y")
_LIKELY = re.compile(
    "label|class|type|categor|target|species|diagnos|group|kind|genus|grade|intent|sentiment|topic|truth"
)
_UNLABELLED = ("", "-1", "-1.0")
_UNLABELLED_FOLDERS = frozenset(["unlabelled", "unlabeled", "unsorted"])
_MAX_INDEX = 99_999
# pandas writes `3.0` for an integer in a column with gaps; `007` is a name, not the number 7.
_INDEX = re.compile(r"(0|-?[1-9][0-9]{0,17})(\.0)?")

Label = int | str | None
Columns = dict[str, list[Label]]


def label_column_of(columns: Sequence[str], asked: str | None, origin: str) -> str | None:
    """Return the column with the labels: `asked`, else the first with a usual name, else None.

    Raise SourceError if there is no column `asked`.
    """
    if asked is None:
        return usual(columns, LABEL_COLUMNS)
    if asked not in columns:
        raise SourceError(
            f"{origin} has no column `{asked}`",
            got=f"columns {', '.join(columns)}",
            hint=f"pass another {option('label_column')} ({did_you_mean(asked, columns)})",
        )
    return asked


def usual(columns: Sequence[str], names: Sequence[str]) -> str | None:
    """Return the column with the first of some usual names, in any case, with spaces for `_`; else None.

    >>> usual(["Id", "File Name", "name"], ["path", "file_name"])
    'File Name'
    """
    spelled = {"_".join(column.casefold().split()): column for column in reversed(columns)}
    return next((name for name in names if name in columns), None) or next(
        (spelled[name] for name in names if name in spelled), None
    )


def likely_column(
    columns: Sequence[str], taken: Iterable[str | None], records: Sequence[Mapping[str, object]] = ()
) -> str | None:
    """Return the column that may hold labels, by its name or by values that repeat in `records`; else None.

    >>> likely_column(["path", "cell type"], ["path"])
    'cell type'
    """
    left = [name for name in columns if name and name not in set(taken)]
    named = [name for name in left if _LIKELY.search(name.casefold())]
    values = {name: [v for r in records if isinstance(v := r.get(name), str) and v.strip()] for name in left}
    repeated = [name for name, found in values.items() if 2 <= len({*found}) <= len(found) / 2]
    return next(iter([*named, *repeated]), None)


def class_name(text: str) -> str | None:
    """Return a class name without space around it, in Unicode's form NFC; None for no label.

    >>> class_name(" cafe\u0301 ") == "caf\u00e9", class_name("-1")
    (True, None)
    """
    name = unicodedata.normalize("NFC", text.strip())
    return None if name in _UNLABELLED else name


def is_unlabelled_folder(name: str) -> bool:
    """Return True for the name of a folder of unlabelled images."""
    return class_name(name) is None or name.strip().casefold() in _UNLABELLED_FOLDERS


def merged_forms(found: Iterable[object]) -> list[str]:
    """Return the class names that are found in several Unicode forms, or with different space around them."""
    forms: dict[str, set[str]] = {}
    for value in {value for value in found if isinstance(value, str)}:
        forms.setdefault(class_name(value) or "", set()).add(value)
    forms.pop("", None)
    return sorted(name for name, spelled in forms.items() if len(spelled) > 1)


def refuse_label_column(asked: str | None, origin: str) -> None:
    """Raise SourceError if a label column is asked of a format without columns.

    `origin` is a clause that tells where this format has its labels.
    """
    if asked is not None:
        raise SourceError(
            f"{origin}, not in a column", got=option("label_column", asked), hint="leave it out"
        )


def encode(
    columns: Mapping[str, tuple[Sequence[str], Sequence[object]]], class_names: Sequence[str] | None
) -> tuple[dict[str, NDArray[np.int64]], tuple[str, ...]]:
    """Return class indices by split, and the class names, from (ids, labels) by split.

    With `class_names`, a label is a name or the index of one. Without, whole numbers are indices. All other
    labels are names, numbered in sorted order over all splits together. Names are compared in Unicode's form
    NFC, without space around them. None, "", NaN and -1 are unlabelled.
    Raise SourceError for a label that fits neither, and for class names that occur twice.

    >>> encode({"train": (["a", "b", "c"], ["dog", "", "cat"])}, None)
    ({'train': array([ 1, -1,  0])}, ('cat', 'dog'))
    """
    cleaned: Columns = {
        split: [_clean(value, split, row, ids) for row, value in enumerate(values)]
        for split, (ids, values) in columns.items()
    }
    if class_names is None:
        cleaned, names = _derive(cleaned)
    else:
        names = tuple(unicodedata.normalize("NFC", name) for name in class_names)
    index_of = {name: index for index, name in enumerate(names)}
    if len(index_of) < len(names):
        raise SourceError("a class name occurs twice", got=", ".join(names), expected="distinct class names")
    encoded = {
        split: np.array(
            [_index(label, index_of, split, row, columns[split][0]) for row, label in enumerate(labels)],
            np.int64,
        )
        for split, labels in cleaned.items()
    }
    return encoded, names


def _clean(value: object, split: str, row: int, ids: Sequence[str]) -> Label:
    """Return a label as an integer, a stripped name, or None (unlabelled)."""
    if isinstance(value, bytes):
        value = value.decode(errors="backslashreplace")
    if isinstance(value, str):
        return class_name(value)
    if value is None or value == UNLABELLED or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return int(value)
    raise SourceError(
        "a label is neither a whole number nor a name",
        got=f"{value!r} in {_where(split, row, ids)}",
        expected="one class index or class name for each sample, or nothing",
        hint=f"pass another {option('label_column')}",
    )


def _derive(cleaned: Columns) -> tuple[Columns, tuple[str, ...]]:
    """Return the labels, as all numbers or all names, and the class names they imply."""
    distinct = {label for labels in cleaned.values() for label in labels if label is not None}
    indices = [index for label in distinct if (index := _as_index(label)) is not None]
    if len(indices) == len(distinct):
        return cleaned, tuple(str(index) for index in range(min(max(indices, default=-1), _MAX_INDEX) + 1))
    as_names: Columns = {
        split: [None if label is None else str(label) for label in labels]
        for split, labels in cleaned.items()
    }
    return as_names, tuple(sorted({str(label) for label in distinct}))


def _as_index(label: Label) -> int | None:
    """Return the index that a label spells, or None for a name."""
    if isinstance(label, str):
        return int(label.removesuffix(".0")) if _INDEX.fullmatch(label) else None
    return label


def _index(label: Label, index_of: Mapping[str, int], split: str, row: int, ids: Sequence[str]) -> int:
    """Return the class index of a label; raise SourceError if it has no class."""
    if label is None:
        return UNLABELLED
    index = index_of.get(label, _as_index(label)) if isinstance(label, str) else label
    if index is not None and 0 <= index < len(index_of):
        return index
    known = ", ".join([*index_of][:10]) + (", ..." if len(index_of) > 10 else "")
    raise SourceError(
        "a label is outside the classes",
        got=f"{label!r} in {_where(split, row, ids)}",
        expected=f"an index from 0 to {len(index_of) - 1}, or a name of {known}",
        hint="mark unlabelled samples by -1 or an empty label; replace sparse numbers by names",
    )


def _where(split: str, row: int, ids: Sequence[str]) -> str:
    """Describe the place of a label for an error message."""
    return f"row {row} of split `{split}` (`{ids[row]}`)"
