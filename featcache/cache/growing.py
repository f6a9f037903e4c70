"""Make an existing cache larger: what is there is linked into a new one beside it, which takes its place.

So there is always one whole cache, and a kill leaves the old one or the new one. What the new one has more of
is missing in it, until it is computed. The caller holds the lock of the place.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from featcache.cache import create, labels, ledger
from featcache.cache.create import SplitRows
from featcache.cache.labels import LabelTable
from featcache.cache.layout import Unit
from featcache.cache.reader import FAILED, CacheReader, SplitReader, sample_digests
from featcache.cache.records import FileRecord
from featcache.cache.spec import CLASS_TEXT, CacheSpec, LayoutSpec, Shapes
from featcache.cache.split_format import STATUS, SplitFormat
from featcache.cache.storage import Storage, explained

_AT_ONCE = 1000
"""Units that are linked before their folders are forced to disk."""


@dataclass(frozen=True)
class Growth:
    """The larger cache, as far as it differs from the one that is there."""

    spec: CacheSpec
    shapes: Shapes
    provenance: Mapping[str, Any]
    splits: Mapping[str, SplitRows]
    """The rows of splits that are there: the same ones, and then new ones. Others stay as they are."""
    again: Mapping[str, Collection[int]] = field(default_factory=dict)
    """Rows by split that are computed again."""
    gone: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    """Rows by split whose samples are gone, with the reason."""


def grow(place: Storage, to: Growth) -> None:
    """Replace the cache at a place by the larger one.

    Does nothing where another process has done the same in the meantime. Raises CacheError where the system
    fails; the old cache stays then.
    """
    old, beside = CacheReader.open(place), place.beside()
    if _is_grown(old, to):
        return
    with explained(beside):
        beside.delete("")
        create.create_cache(beside, to.spec, to.shapes, to.provenance)
        new = CacheReader.open(beside)
        for name in old.split_names:
            _grow_split(new, old.split(name), to)
        _carry_labels(beside, old, to)
        for key in _keys(place, CLASS_TEXT):
            beside.link({key: key}, place)
    place.replace()
    with explained(place, "the old cache"):
        place.tidy(create.is_own)


def _is_grown(cache: CacheReader, to: Growth) -> bool:
    same = all(cache.split(name).spec == rows.spec for name, rows in to.splits.items())
    return same and cache.spec == to.spec and not to.again and not to.gone


def _grow_split(new: CacheReader, old: SplitReader, to: Growth) -> None:
    rows = to.splits.get(old.name) or SplitRows(old.spec, old.ids, sample_digests(old))
    layout = LayoutSpec(shard_size=str(old.block))
    create.create_split(new.storage, old.name, rows, to.spec, to.shapes, layout)
    grown = new.split(old.name)
    if {*grown.arrays} != {*old.arrays}:
        return  # another layer: every unit has to be computed again
    entries: dict[Unit | None, ledger.Entry] = {}
    for unit, entry in _carried(new, grown, old, to):
        entries[unit] = entry
        if len(entries) == _AT_ONCE:
            ledger.write(grown.storage, entries)
            entries = {}
    ledger.write(grown.storage, entries)


def _carried(
    new: CacheReader, grown: SplitReader, old: SplitReader, to: Growth
) -> Iterator[tuple[Unit, ledger.Entry]]:
    """Link the files of each unit that stays as it is; yield its new name, and its new entry."""
    form = SplitFormat.of(new, grown)
    again, gone = {*to.again.get(old.name, ())}, to.gone.get(old.name, {})
    there = {(unit.block, unit.view): unit for unit in grown.units}
    for unit in old.units:
        entry = ledger.read(old.storage, unit)
        same = there.get((unit.block, grown.views.index(old.views[unit.view])))
        rows = range(unit.start, unit.stop)
        if entry is None or same is None or same.stop != unit.stop or not again.isdisjoint(rows):
            continue
        if ledger.damage(old.storage, entry):
            continue
        names = {key: _renamed(key, form, same) for key in entry.files}
        grown.storage.link({new_key: key for key, new_key in names.items()}, old.storage)
        files = {names[key]: record for key, record in entry.files.items()}
        lost = {row: reason for row, reason in gone.items() if row in rows}
        if lost:
            key = f"{STATUS}/{form.layouts[STATUS].unit_key(same)}"
            files[key] = _mark(grown.storage, key, [row - unit.start for row in lost])
        yield same, ledger.Entry(rows=entry.rows, failed={**entry.failed, **lost}, files=files)


def _renamed(key: str, form: SplitFormat, unit: Unit) -> str:
    name = key.partition("/")[0]
    return f"{name}/{form.layouts[name].unit_key(unit)}"


def _mark(split: Storage, key: str, rows: list[int]) -> FileRecord:
    """Write the status of a unit again, with some rows failed."""
    status = np.frombuffer(split.read(key) or b"", np.uint8).copy()
    status[rows] = FAILED
    split.write({key: status.tobytes()})
    return FileRecord.of(status.tobytes())


def _carry_labels(beside: Storage, old: CacheReader, to: Growth) -> None:
    """Keep the labels; new rows have none yet."""
    table, padded = old.labels, {}
    for name, values in table.by_split.items():
        rows = to.splits[name].spec.rows if name in to.splits else len(values)
        padded[name] = np.concatenate([values, np.full(rows - len(values), -1, np.int64)])
    labels.write(beside, LabelTable(table.class_names, padded, table.chosen))


def _keys(storage: Storage, prefix: str) -> Iterator[str]:
    for name in storage.names(prefix):
        key = f"{prefix}/{name}"
        if storage.size(key) is None:
            yield from _keys(storage, key)
        else:
            yield key
