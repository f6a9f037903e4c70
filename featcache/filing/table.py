"""A table of predictions on disk: CSV, Parquet or JSON lines, by the ending of its name."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from featcache.errors import ConfigError, option
from featcache.files import explained, write_atomic
from featcache.shown import cell

if TYPE_CHECKING:
    import pyarrow as pa

FIRST = ("split", "id", "prediction", "confidence", "label")
"""The first columns of every table, also of those that earlier versions wrote."""
FORMATS = (".csv", ".parquet", ".jsonl")
DIGITS = 6
"""Digits after the point in CSV and JSON lines; Parquet has the numbers as they are."""


class Table:
    """A table that is collected in memory, and written at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._parts: list[pa.Table] = []

    @classmethod
    def at(cls, path: Path) -> Self:
        """Return a table to be written at `path`.

        Raises ConfigError if its ending is no format, or if `path` exists and is not an earlier table.
        """
        if path.suffix.lower() not in FORMATS and not path.is_dir():
            raise ConfigError(
                "the ending of the table is its format",
                got=str(path),
                expected=f"a name that ends in {', '.join(FORMATS)}",
                hint=f"choose another {option('out')}, such as predictions.csv",
            )
        _refuse_foreign(path)
        return cls(path)

    def add(self, columns: Mapping[str, Any]) -> None:
        """Append rows: values by column, the same columns every time."""
        import pyarrow as pa

        fields = {name: pa.array(values, _type(name), from_pandas=True) for name, values in columns.items()}
        self._parts.append(pa.table(fields))

    def records(self, *columns: str) -> Iterator[dict[str, Any]]:
        """Yield some columns of the rows so far."""
        for part in self._parts:
            yield from part.select(columns).to_pylist()

    def write(self, *, least_sure_first: bool = False) -> None:
        """Write the table atomically; the least sure rows first if asked, and failed ones at the end."""
        import pyarrow as pa

        rows = pa.concat_tables(self._parts)
        if least_sure_first:
            rows = rows.sort_by([("confidence", "ascending")])
        content = {".csv": _csv, ".parquet": _parquet, ".jsonl": _jsonl}[self.path.suffix.lower()](rows)
        with explained(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(self.path, content)


def _type(name: str) -> pa.DataType:
    import pyarrow as pa

    if name in ("confidence", "second_confidence", "novelty"):
        return pa.float64()
    if name.startswith("p:"):
        return pa.float32()
    return {"unsure": pa.bool_(), "set": pa.list_(pa.string())}.get(name, pa.string())


def _records(rows: pa.Table) -> Iterator[dict[str, Any]]:
    for batch in rows.to_batches(max_chunksize=1000):
        yield from batch.to_pylist()


def _csv(rows: pa.Table) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(cell, rows.column_names))
    writer.writerows([_cell(value) for value in record.values()] for record in _records(rows))
    return text.getvalue().encode()


def _cell(value: Any) -> str | None:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.{DIGITS}f}"
    if isinstance(value, list):
        return json.dumps(value, ensure_ascii=False)
    return cell(value) if isinstance(value, str) else value


def _jsonl(rows: pa.Table) -> bytes:
    def plain(value: Any) -> Any:
        return round(value, DIGITS) if isinstance(value, float) and math.isfinite(value) else value

    lines = ({name: plain(value) for name, value in record.items()} for record in _records(rows))
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()


def _parquet(rows: pa.Table) -> bytes:
    import pyarrow.parquet as pq

    written = io.BytesIO()
    pq.write_table(rows, written)
    return written.getvalue()


def _refuse_foreign(path: Path) -> None:
    """Raise ConfigError if `path` exists and is not an earlier table."""
    with explained(path):
        if not path.exists() or (path.is_file() and not path.stat().st_size):
            return
        found = _first_columns(path) if path.is_file() else "a folder"
    if not isinstance(found, str) and tuple(found)[: len(FIRST)] == FIRST:
        return
    raise ConfigError(
        f"{path} exists and is not a table of predictions; it is left as it is",
        got=found if isinstance(found, str) else f"columns {', '.join(found)}"[:80],
        expected="an earlier table, or nothing",
        hint=f"choose another {option('out')}, such as predictions.csv",
    )


def _first_columns(path: Path) -> list[str] | str:
    """Return the columns of a table, or say what the file is instead."""
    if path.suffix.lower() == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return list(pq.read_schema(path).names)
        except (pa.ArrowException, OSError):
            return "a file that is no Parquet"
    with path.open("rb") as file:
        line = file.readline(100_000).decode(errors="replace").strip()
    if path.suffix.lower() == ".csv":
        return _listed(next(csv.reader([line]), []), line)
    try:
        return _listed(json.loads(line), line)
    except ValueError:
        return f"a file that begins with {line[:60]!r}"


def _listed(names: Iterable[str] | Any, line: str) -> list[str] | str:
    found = list(names) if isinstance(names, (list, dict)) else []
    return found if tuple(found[: len(FIRST)]) == FIRST else f"a file that begins with {line[:60]!r}"
