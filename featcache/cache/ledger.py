"""The ledger of a split: one small file for each committed unit, written last, and one for the split."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import numpy as np
import pydantic
from numpy.typing import NDArray

from featcache.cache.layout import Unit
from featcache.cache.records import FileRecord, Key, damaged
from featcache.cache.storage import Storage
from featcache.cache.zarr_files import METADATA
from featcache.config import Config
from featcache.seal import OPEN, is_whole
from featcache.seal import seal as with_seal
from featcache.specs import Count


def _of_metadata(key: str) -> str:
    if key.rpartition("/")[2] != METADATA:
        raise ValueError(f"the key of a {METADATA}")
    return key


MetadataKey = Annotated[Key, pydantic.AfterValidator(_of_metadata)]
"""The only files that `repair` writes from their copies."""


class Entry(Config):
    """One committed unit, or what a split has besides: its failed rows and its files."""

    seal: str = OPEN
    rows: Count
    failed: dict[Count, str]
    """Reasons for failure, by row of the split."""
    files: dict[Key, FileRecord]
    """Files by key below the split."""
    copies: dict[MetadataKey, str] = pydantic.Field(default_factory=dict)
    """The text of every `zarr.json` by key below the cache, in the entry of the split; empty in others."""


def key(unit: Unit | None = None) -> str:
    """Return the key of an entry, in an array's folder, where Zarr readers do not look for arrays.

    Without a unit, it is the entry of the split: its sample ids and metadata.

    >>> key(), key(Unit(block=2, view=1, start=0, stop=1))
    ('status/ledger/rows.json', 'status/ledger/2.1.json')
    """
    name = "rows" if unit is None else f"{unit.block}.{unit.view}"
    return f"status/ledger/{name}.json"


def read(split: Storage, unit: Unit | None = None) -> Entry | None:
    """Return the entry of a unit, or of the split; None if it is missing or damaged."""
    data = split.read(key(unit))
    if data is None or is_whole(data) is False:
        return None
    try:
        return Entry.model_validate_json(data)
    except pydantic.ValidationError:
        return None


def is_begun(split: Storage) -> bool:
    """Return True if a split has entries, whole or damaged."""
    return bool(split.names("status/ledger"))


def contents(entries: Mapping[Unit | None, Entry]) -> dict[str, bytes]:
    """Return the files of some entries, by key."""
    return {key(unit): _file(entry) for unit, entry in entries.items()}


def write(split: Storage, entries: Mapping[Unit | None, Entry]) -> None:
    """Commit units whose files are in place and durable."""
    split.write(contents(entries))


def records(split: Storage, name: str) -> dict[str, FileRecord]:
    """Return the records of the files of a small array, by key below the array; none if they are unknown."""
    entry = read(split)
    files = {} if entry is None else entry.files
    return {key.removeprefix(f"{name}/"): files[key] for key in files if key.startswith(f"{name}/")}


def damage(split: Storage, entry: Entry) -> tuple[str, int | None, int] | None:
    """Return (key, size found, size expected) of the first file that is missing or of another size."""
    for name, record in entry.files.items():
        found = split.size(name)
        if found != record.bytes:
            return name, found, record.bytes
    return None


def status(split: Storage, name: str, unit: Unit, entry: Entry) -> NDArray[np.uint8]:
    """Return the status of the rows of a unit, which the file `name` holds; raise CacheError if damaged."""
    data, record = split.read(name), entry.files.get(name)
    if record is None:
        raise damaged(f"{split}/{key(unit)}", f"no record of {name}", "one of each file")
    record.require(f"{split}/{name}", data)
    found, rows = np.frombuffer(data or b"", np.uint8), unit.stop - unit.start
    if len(found) < rows:
        raise damaged(f"{split}/{name}", f"the status of {len(found)} rows", f"that of {rows}")
    return found[:rows]


def _file(entry: Entry) -> bytes:
    content = entry.model_copy(update={"seal": OPEN})
    unused = {"copies"} if not entry.copies else set()
    return with_seal((content.model_dump_json(indent=2, exclude=unused) + "\n").encode())
