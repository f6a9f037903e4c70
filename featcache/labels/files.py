"""Read labels from a table: CSV, TSV, JSON Lines or Parquet."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featcache.errors import LabelError, option
from featcache.labels.names import alike
from featcache.shown import uncelled
from featcache.sources._labels import LABEL_COLUMNS, label_column_of, usual
from featcache.sources._labels import class_name as name_of
from featcache.sources._table import PATH_COLUMNS, Table, is_table, split_of_record

ID_COLUMNS = ("id", "sample_id", "sample", "key", "name", *PATH_COLUMNS)
CHOSEN_COLUMN = "chosen_by"
"""A column of the tables that `suggest` writes: filled where a sample was chosen, and not drawn at random."""


@dataclass(frozen=True)
class Given:
    """One line of a table of labels."""

    key: str
    """Sample id, file name or path, as the user wrote it."""
    name: str | None
    """Class name; None takes the label back."""
    split: str | None
    chosen: bool
    where: str
    """Its place, for messages."""


def read_given(path: Path, label_column: str | None = None) -> list[Given]:
    """Read all lines of a table of labels.

    The samples are in the first of the columns `id`, `sample_id`, `name`, `path`, `file` and so on; the class
    names in `label_column`, by default the first of `label`, `class` and so on. A column `split` may name the
    split. Raise LabelError if the file or a column is missing, or if a sample has two labels.
    """
    rows = list(_records(path))
    columns = tuple(dict.fromkeys(name for row in rows for name in row))
    if not rows:
        raise LabelError(f"{path} has no row", expected="a header, and a line for each labelled sample")
    key = usual(columns, ID_COLUMNS)
    label = label_column_of(columns, label_column, path.name)
    if key is None or label is None:
        missing, names = ("of samples", ID_COLUMNS[:8]) if key is None else ("of labels", LABEL_COLUMNS)
        hint = f"rename it, or name it with {option('label_column')}" if key else "rename it"
        raise LabelError(
            f"{path.name} has no column {missing}",
            got=f"columns {', '.join(columns)}",
            expected=f"one of {', '.join(names)}",
            hint=hint,
        )
    found = []
    for number, row in enumerate(rows):
        where = f"row {number + 1} of {path.name}"
        if (sample := _text(row.get(key))) is None:
            raise LabelError("a row names no sample", got=where, expected=f"a sample in the column `{key}`")
        split = split_of_record(row, "") or None
        name, chosen = class_name(row.get(label)), _text(row.get(CHOSEN_COLUMN)) is not None
        found.append(Given(sample, name, split, chosen, where))
    _refuse_two_labels(found)
    return found


def class_name(value: object) -> str | None:
    """Return the class name in a cell, as sources read it; None for no label.

    >>> class_name(" cat "), class_name(3.0), class_name(float("nan")), class_name("")
    ('cat', '3', None, None)
    """
    text = _text(value)
    return None if text is None else name_of(uncelled(text))


def _text(value: object) -> str | None:
    """Return a cell as text, None if it is empty; a whole number without the `.0` of a column with gaps."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip() or None


def _records(path: Path) -> Iterator[Mapping[str, Any]]:
    if not path.is_file():
        raise LabelError("there is no such file of labels", got=path, hint="check the path")
    if is_table(path):
        yield from (record for _, record in Table(path).records())
    elif path.suffix.lower() in (".parquet", ".pq"):
        yield from _parquet(path)
    else:
        raise LabelError(
            "this is no table of labels", got=path.name, expected="a .csv, .tsv, .jsonl or .parquet file"
        )


def _parquet(path: Path) -> Sequence[Mapping[str, Any]]:
    import pyarrow
    from pyarrow import parquet

    try:
        rows: list[dict[str, Any]] = parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise LabelError(f"{path} cannot be read", got=error, expected="a Parquet file") from None
    return rows


def _refuse_two_labels(rows: Sequence[Given]) -> None:
    seen: dict[tuple[str, str | None], Given] = {}
    for row in rows:
        first = seen.setdefault((row.key, row.split), row)
        if first.name != row.name:
            raise two_labels(first, row)


def two_labels(first: Given, second: Given) -> LabelError:
    """Return the error for two lines of one file that give a sample different labels."""
    return LabelError(
        f"two labels for one sample: `{second.key}`",
        got=f"`{first.name}` in {first.where}, `{second.name}` in {second.where}",
        expected="one label for each sample of a file",
        hint="delete one; in several files, the label of the last file is used",
    )


def spelling_warnings(names: Sequence[str]) -> list[str]:
    """Return warnings for class names that differ only in case, spaces or signs between words.

    >>> spelling_warnings(["cat", "Cat", "dog", "fire truck", "fire_truck"])
    ['the classes `Cat` and `cat` differ only in spelling', \
'the classes `fire truck` and `fire_truck` differ only in spelling']
    """
    groups = (" and ".join(f"`{name}`" for name in sorted(group)) for group in alike(names))
    return [f"the classes {group} differ only in spelling" for group in groups]
