"""The ledger of a split: one small file for each committed unit, written last."""

from __future__ import annotations

from collections.abc import Mapping

import pydantic

from featcache.cache.layout import Unit
from featcache.cache.storage import Storage
from featcache.config import Config


class FileRecord(Config):
    """One file, as it was committed."""

    bytes: int
    crc32c: int


class Entry(Config):
    """One committed unit: its failed rows and its files."""

    rows: int
    failed: dict[int, str]
    """Reasons for failure, by row of the split."""
    files: dict[str, FileRecord]
    """Files by key below the split."""


def key(unit: Unit | None = None) -> str:
    """Return the key of an entry, in an array's folder, where Zarr readers do not look for arrays.

    Without a unit, it is the entry of the labels and sample ids.

    >>> key(), key(Unit(block=2, view=1, start=0, stop=1))
    ('status/ledger/rows.json', 'status/ledger/2.1.json')
    """
    name = "rows" if unit is None else f"{unit.block}.{unit.view}"
    return f"status/ledger/{name}.json"


def read(split: Storage, unit: Unit | None = None) -> Entry | None:
    """Return the entry of a unit, or of labels and ids; None if it is missing or cannot be parsed."""
    data = split.read(key(unit))
    try:
        return None if data is None else Entry.model_validate_json(data)
    except pydantic.ValidationError:
        return None


def contents(entries: Mapping[Unit | None, Entry]) -> dict[str, bytes]:
    """Return the files of some entries, by key."""
    return {key(unit): (entry.model_dump_json(indent=2) + "\n").encode() for unit, entry in entries.items()}


def write(split: Storage, entries: Mapping[Unit | None, Entry]) -> None:
    """Commit units whose files are in place and durable."""
    split.write(contents(entries))


def damage(split: Storage, entry: Entry) -> tuple[str, int | None, int] | None:
    """Return (key, size found, size expected) of the first file that is missing or of another size."""
    for name, record in entry.files.items():
        found = split.size(name)
        if found != record.bytes:
            return name, found, record.bytes
    return None
