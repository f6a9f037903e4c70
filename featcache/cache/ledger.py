"""The ledger of a split: a small file per committed unit, written last, says what was written and failed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pydantic

from featcache import files
from featcache.cache.layout import Unit
from featcache.config import Config


class FileRecord(Config):
    """One file as it was committed."""

    bytes: int
    crc32c: int


class Entry(Config):
    """One committed unit."""

    rows: int
    failed: dict[int, str]
    """Why a row could not be computed, by row of the split."""
    files: dict[str, FileRecord]
    """By path below the split's folder."""


def path(split: Path, unit: Unit | None = None) -> Path:
    """Where an entry lies: inside an array's folder, where Zarr readers do not look for arrays.

    Without a unit, the entry of what the whole split shares: labels and sample ids.
    """
    name = "rows" if unit is None else f"{unit.block}.{unit.view}"
    return split / "status" / "ledger" / f"{name}.json"


def read(split: Path, unit: Unit | None = None) -> Entry | None:
    """The entry of a unit, or of the split; None where it is not committed, or cannot be read."""
    try:
        return Entry.model_validate_json(path(split, unit).read_bytes())
    except (FileNotFoundError, pydantic.ValidationError):
        return None


def write(entries: Mapping[tuple[Path, Unit | None], Entry]) -> None:
    """Commit units, each given by its split and itself; without a unit, what the whole split shares."""
    contents = {}
    for (split, unit), entry in entries.items():
        place = path(split, unit)
        place.parent.mkdir(exist_ok=True)
        contents[place] = (entry.model_dump_json(indent=2) + "\n").encode()
    files.write_all(contents)


def damage(split: Path, entry: Entry) -> tuple[Path, int | None, int] | None:
    """The first file missing or of another size, as (path, size found, size expected); None if none."""
    for name, record in entry.files.items():
        file = split / name
        found = file.stat().st_size if file.exists() else None
        if found != record.bytes:
            return file, found, record.bytes
    return None
