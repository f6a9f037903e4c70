"""Prepare a damaged cache for being written again: restore its metadata, take bad units off the ledger."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from featcache.cache import ledger
from featcache.cache.labels import LABELS
from featcache.cache.reader import CacheReader
from featcache.cache.spec import CLASS_TEXT
from featcache.cache.storage import Storage
from featcache.cache.verify import Damage


@dataclass(frozen=True)
class Losses:
    """The parts that a cache has lost, besides metadata."""

    units: Mapping[str, Mapping[str, ledger.Entry | None]] = field(default_factory=dict)
    """By split and key of the entry: the entry of each unit to compute again; None if it is lost as well."""
    labels: bool = False
    """True if the table of labels is damaged."""
    class_text: bool = False
    """True if the embeddings of class names are damaged."""


def restore_metadata(storage: Storage) -> list[str]:
    """Write every description that differs from its copy in a ledger again; return their keys."""
    copies: dict[str, bytes] = {}
    for name in storage.names():
        if (entry := ledger.read(storage.below(name))) is not None:
            copies |= {key: text.encode() for key, text in entry.copies.items()}
    lost = {key: data for key, data in copies.items() if storage.read(key) != data}
    storage.write(lost)
    return list(lost)


def losses_of(storage: Storage, damages: Iterable[Damage]) -> Losses:
    """Return which units, labels and class texts the damaged files are parts of."""
    cache = CacheReader.open(storage)
    damaged = {damage.file for damage in damages}
    units: dict[str, dict[str, ledger.Entry | None]] = {}
    for name in cache.described:
        split = cache.split(name)
        for unit in split.units:
            key, entry = ledger.key(unit), ledger.read(split.storage, unit)
            files = {key, *(entry.files if entry else ())}
            if damaged.isdisjoint(f"{name}/{file}" for file in files):
                continue
            units.setdefault(name, {})[key] = entry
    below = {file.partition("/")[0] for file in damaged}
    return Losses(units, LABELS in below, CLASS_TEXT in below)


def take_off(storage: Storage, losses: Losses) -> None:
    """Take lost units off the ledger, so that they are written again; the caller holds the lock."""
    for name, entries in losses.units.items():
        for key in entries:
            storage.below(name).delete(key)


def changed(storage: Storage, losses: Losses) -> list[str]:
    """Return the files that have other bytes than before, and the entries that cannot be compared."""
    found, cache = [], CacheReader.open(storage)
    for name, entries in losses.units.items():
        split = cache.split(name)
        now = {ledger.key(unit): ledger.read(split.storage, unit) for unit in split.units}
        for key, before in entries.items():
            after = now[key]
            if before is None or after is None:
                found.append(f"{name}/{key}")
            else:
                other = [file for file in after.files if after.files[file] != before.files.get(file)]
                found += [f"{name}/{file}" for file in other]
    return found
