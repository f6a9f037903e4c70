"""Seal a cache of an earlier format: write the checksums that its files lack."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from featcache import seal
from featcache.cache import create, ledger
from featcache.cache.labels import LABELS
from featcache.cache.reader import CacheReader
from featcache.cache.records import FileRecord
from featcache.cache.spec import CLASS_TEXT, FORMAT
from featcache.cache.storage import Storage
from featcache.cache.zarr_files import METADATA
from featcache.outside import json_of


def adopt(storage: Storage) -> None:
    """Seal every description and ledger entry of a verified cache, whose lock the caller holds.

    The files are taken to be right as they are: nobody knows whether they have changed since they were
    written. The description of the cache comes last, so that a killed adoption is repeated.
    """
    cache = CacheReader.open(storage)
    root = _sealed(storage.read(METADATA), {"format": FORMAT})
    if (data := storage.read(f"{CLASS_TEXT}/{METADATA}")) is not None:
        _seal(storage, f"{CLASS_TEXT}/embedding/{METADATA}")
        records = {
            key: FileRecord.of(storage.read(f"{CLASS_TEXT}/{key}") or b"").model_dump()
            for key in ("embedding/c/0/0",)
        }
        storage.write({f"{CLASS_TEXT}/{METADATA}": _sealed(data, {"files": records})})
    for key in _metadata(storage, LABELS):
        _seal(storage, key)
    for name in cache.split_names:
        _adopt_split(storage, name, cache, root)
    storage.write({METADATA: root})


def _adopt_split(storage: Storage, name: str, cache: CacheReader, root: bytes) -> None:
    split = cache.split(name)
    for key in _metadata(storage, name):
        _seal(storage, key)
    entries = {unit: ledger.read(split.storage, unit) for unit in split.units}
    ledger.write(split.storage, {unit: entry for unit, entry in entries.items() if entry is not None})
    read = ((f"{array}/c/0", split.storage.read(f"{array}/c/0")) for array in ("sample_id", "sample_digest"))
    ids = {key: data for key, data in read if data is not None}
    metadata = {key.removeprefix(f"{name}/"): storage.read(key) or b"" for key in _metadata(storage, name)}
    ledger.write(split.storage, {None: create.split_entry(root, name, split.rows, ids | metadata)})


def _metadata(storage: Storage, prefix: str) -> list[str]:
    """List the descriptions of groups and arrays below a prefix."""
    found = []
    for name in storage.names(prefix):
        key = f"{prefix}/{name}"
        if name == METADATA:
            found.append(key)
        elif storage.size(key) is None:
            found += _metadata(storage, key)
    return found


def _seal(storage: Storage, key: str) -> None:
    storage.write({key: _sealed(storage.read(key), {})})


def _sealed(data: bytes | None, more: Mapping[str, Any]) -> bytes:
    """Return a description with a seal, and with `more` in featcache's attributes."""
    content = json_of(data or b"{}")
    held = {key: value for key, value in content.get("attributes", {}).items() if key != seal.KEY}
    if more:
        held["featcache"] = {**held["featcache"], **more}
    content["attributes"] = {seal.KEY: seal.OPEN, **held}
    return seal.seal((json.dumps(content, indent=2) + "\n").encode())
