"""Reread a cache, and compare every file with what was written: seals, records in the ledger, digests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from featcache import seal
from featcache.cache import labels, ledger
from featcache.cache.checks import require_whole
from featcache.cache.labels import LABELS
from featcache.cache.layout import Unit
from featcache.cache.reader import CacheReader, SplitReader, read_attributes
from featcache.cache.records import FileRecord
from featcache.cache.spec import CLASS_TEXT, SEALED_SINCE
from featcache.cache.storage import Storage
from featcache.cache.zarr_files import METADATA
from featcache.errors import FeatcacheError

_THREADS = 4
"""Files read at a time; more do not make one disk faster."""


class Damage(NamedTuple):
    """A file that is not as it was written."""

    file: str
    """Its key below the cache, or its name below the run."""
    got: str
    rows: str | None = None
    """The rows that it holds, if it is a file of a unit."""


@dataclass
class Verification:
    """The findings about a cache or a run."""

    files: dict[str, str] = field(default_factory=dict)
    """A verdict on each file: whole, damaged, missing or unknown (nothing is recorded of it)."""
    damages: list[Damage] = field(default_factory=list)
    unwritten: int = 0
    """Units that are not written yet."""
    nbytes: int = 0
    """Bytes that were read."""

    @property
    def whole(self) -> bool:
        """True if nothing is damaged, and every unit is written."""
        return not self.damages and not self.unwritten

    @property
    def unknown(self) -> list[str]:
        """The files of which nothing is recorded; `adopt` records it."""
        return [file for file, verdict in self.files.items() if verdict == "unknown"]

    def add(self, file: str, problem: str | None, rows: str | None = None) -> None:
        """Add the verdict on a file: whole, or its problem."""
        self.files[file] = "whole" if problem is None else "damaged"
        if problem is not None:
            self.damages.append(Damage(file, problem, rows))


class _Check(NamedTuple):
    """One file to check, and how."""

    file: str
    call: Callable[[], object]
    """Raises a FeatcacheError if the file is damaged; returns False if nothing is recorded of it."""
    rows: str | None = None


def verify_cache(
    storage: Storage, *, quick: bool = False, advance: Callable[[int], object] = lambda read: None
) -> Verification:
    """Check every file of a cache; raise CacheError if there is none.

    `quick` leaves out the content of shards: it checks their sizes and indices, and all small files whole.
    Calls `advance` with numbers of bytes as they are read.
    """
    report = Verification()

    def read(count: int) -> None:
        report.nbytes += count
        advance(count)

    # The description of the cache and of its splits is needed to find the other files.
    try:
        cache = CacheReader.open(storage)
        splits = [cache.split(name) for name in cache.described]
    except FeatcacheError:
        if not _report_unreadable(storage, report):
            raise
        return report
    for name in cache.undescribed:
        report.add(f"{name}/{METADATA}", "no such file, or an empty one")
    sealed = cache.format >= SEALED_SINCE
    report.unwritten = sum(ledger.read(s.storage, unit) is None for s in splits for unit in s.units)
    checks = list(_checks(cache, splits, sealed, quick, read))
    with ThreadPoolExecutor(_THREADS) as pool:
        for check, problem in zip(checks, pool.map(_problem, checks), strict=True):
            if problem is False:
                report.files[check.file] = "unknown"
            else:
                report.add(check.file, problem, check.rows)
    return report


def nbytes_of(storage: Storage, *, quick: bool) -> int:
    """Return about how many bytes `verify_cache` will read."""
    return 0 if quick else storage.nbytes()


def _problem(check: _Check) -> str | Literal[False] | None:
    """Return what is wrong with a file: None if nothing is, False if nothing is recorded of it."""
    try:
        return False if check.call() is False else None
    except FeatcacheError as error:
        return str(error.got or error.what)


def _report_unreadable(storage: Storage, report: Verification) -> bool:
    """Check the descriptions on their own, as the other files cannot be found without them."""
    groups = ("", *(f"{name}/" for name in storage.names()), *(f"{n}/status/" for n in storage.names()))
    for key in (f"{group}{METADATA}" for group in groups):
        data = storage.read(key)
        if data is not None and seal.is_whole(data) is False:
            report.add(key, "other bytes than were written")
    return bool(report.damages)


def _checks(
    cache: CacheReader, splits: list[SplitReader], sealed: bool, quick: bool, read: Callable[[int], object]
) -> Iterator[_Check]:
    storage = cache.storage
    yield _sealed(storage, METADATA, sealed)
    yield from _of_labels(storage, sealed)
    yield from _of_class_text(storage, sealed)
    for split in splits:
        yield from _of_split(split, sealed, quick, read)


def _of_labels(storage: Storage, sealed: bool) -> Iterator[_Check]:
    if storage.size(f"{LABELS}/{METADATA}") is not None:
        yield _sealed(storage, f"{LABELS}/{METADATA}", sealed)
    if (pointer := _attributes(storage, LABELS)) is not None:
        for name in ("", *pointer["splits"]):
            yield _sealed(storage, "/".join(filter(None, (LABELS, pointer["table"], name, METADATA))), sealed)
        yield _Check(f"{LABELS}/{pointer['table']}", lambda: labels.read(storage))


def _of_class_text(storage: Storage, sealed: bool) -> Iterator[_Check]:
    if storage.size(f"{CLASS_TEXT}/{METADATA}") is not None:
        yield _sealed(storage, f"{CLASS_TEXT}/{METADATA}", sealed)
    if (texts := _attributes(storage, CLASS_TEXT)) is not None:
        yield _sealed(storage, f"{CLASS_TEXT}/embedding/{METADATA}", sealed)
        for key, record in texts.get("files", {"embedding/c/0/0": None}).items():
            known = None if record is None else FileRecord.parse(record)
            yield _recorded(storage.below(CLASS_TEXT), key, known, CLASS_TEXT)


def _attributes(storage: Storage, group: str) -> dict[str, Any] | None:
    """Return the attributes of a group; None if there is none, or it is damaged."""
    try:
        return read_attributes(storage.below(group))
    except FeatcacheError:
        return None


def _of_split(
    split: SplitReader, sealed: bool, quick: bool, read: Callable[[int], object]
) -> Iterator[_Check]:
    name, storage = split.name, split.storage
    yield _sealed(storage, METADATA, sealed, name)
    entry = ledger.read(storage)
    records = {} if entry is None else entry.files
    small = {"sample_id", *(key.partition("/")[0] for key in records)}
    for array in (*split.arrays, "status", *sorted(small)):
        yield _sealed(storage, f"{array}/{METADATA}", sealed, name)
    yield _sealed(storage, ledger.key(), sealed, name)
    for key, record in records.items():
        yield _recorded(storage, key, record, name)
    for unit in split.units:
        if storage.size(ledger.key(unit)) is None:
            continue
        yield _sealed(storage, ledger.key(unit), sealed, name, _rows(split, unit))
        if (entry := ledger.read(storage, unit)) is None:
            continue
        for key in entry.files:
            yield _shard(split, unit, key, entry.files[key], quick, read)


def _sealed(storage: Storage, key: str, sealed: bool, prefix: str = "", rows: str | None = None) -> _Check:
    def check() -> bool:
        data = storage.read(key)
        whole = None if data is None else seal.is_whole(data)
        if data is None or whole is False or (whole is None and sealed):
            got = "no such file" if data is None else "other bytes than were written"
            raise FeatcacheError("damaged", got=got)
        return whole is True

    return _Check(f"{prefix}/{key}".lstrip("/"), check, rows)


def _recorded(storage: Storage, key: str, record: FileRecord | None, prefix: str) -> _Check:
    def check() -> bool:
        if record is not None:
            record.require(f"{storage}/{key}", storage.read(key))
        return record is not None

    return _Check(f"{prefix}/{key}", check)


def _shard(
    split: SplitReader, unit: Unit, key: str, record: FileRecord, quick: bool, read: Callable[[int], object]
) -> _Check:
    array = key.partition("/")[0]

    def check() -> None:
        if not quick or array not in split.arrays:
            require_whole(split.storage, key, unit, read)
            return
        found = split.storage.size(key)
        if found != record.bytes:
            got = "no such file" if found is None else f"{found:,} bytes"
            raise FeatcacheError("damaged", got=got)
        split.array(array, checked=False).require_index(unit)

    return _Check(f"{split.name}/{key}", check, _rows(split, unit))


def _rows(split: SplitReader, unit: Unit) -> str:
    return f"rows {unit.start} to {unit.stop - 1} of the view {split.views[unit.view]}"
