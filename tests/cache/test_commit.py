"""Units are committed beside the writing of the next: in what order, how many at once, at what cost."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest

from featcache import files
from featcache.cache import commit, ledger
from featcache.cache.layout import Unit
from featcache.cache.reader import CacheReader
from featcache.cache.spec import LayoutSpec, SplitSpec
from featcache.cache.storage import Folder, Storage
from featcache.cache.writer import CacheWriter, SplitWriter
from featcache.errors import CacheError

Real = Callable[[int], None]
Entries = Mapping[Unit | None, ledger.Entry]


@contextmanager
def _writing(path: Path, synthetic: ModuleType, rows: int = 9) -> Iterator[SplitWriter]:
    """The split `train`, in units of three rows, three views each."""
    with CacheWriter(path, synthetic.spec(), layout=LayoutSpec(shard_size="3")) as writer:
        ids = [str(row) for row in range(rows)]
        source = SplitSpec(content="digest", rows=rows)
        yield writer.split("train", source, ids, synthetic.SHAPES)


def _write(split: SplitWriter, unit: Unit, synthetic: ModuleType) -> None:
    with split.begin(unit) as out:
        out.append(**synthetic.batch(unit.view, unit.start, unit.stop))
        out.commit()


def _is_partial(descriptor: int, array: str) -> bool:
    name = os.readlink(f"/proc/self/fd/{descriptor}")
    return f"/{array}/" in name and name.endswith(files.PARTIAL)


def _tree(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_all_a_unit_needs_is_safe_before_its_entry(
    tmp_path: Path, synthetic: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    safe: set[int] = set()
    entered: list[str] = []

    def fsync(descriptor: int, real: Real = os.fsync) -> None:
        real(descriptor)
        safe.add(os.fstat(descriptor).st_ino)

    def replace(source: Path, to: Path, real: Callable[[Path, Path], None] = os.replace) -> None:
        assert source.stat().st_ino in safe, "named before it was safe"
        if to.parent.name == "ledger" and to.name != "rows.json":
            split = to.parents[2]
            for name in ledger.Entry.model_validate_json(source.read_bytes()).files:
                way = [split / name, *(split / up for up in list(Path(name).parents)[:-1])]
                assert [place for place in way if place.stat().st_ino not in safe] == []
            entered.append(to.stem)
        real(source, to)
        # Its new name makes the folder one that is to be forced to disk again.
        safe.discard(to.parent.stat().st_ino)

    with _writing(tmp_path / "c.zarr", synthetic) as split:
        monkeypatch.setattr(os, "fsync", fsync)
        monkeypatch.setattr(os, "replace", replace)
        for unit in split.missing():
            _write(split, unit, synthetic)
        split.wait()
        assert (tmp_path / "c.zarr" / "train" / "status" / "ledger").stat().st_ino in safe
    assert entered == [f"{block}.{view}" for block in range(3) for view in range(3)]


def test_small_units_share_their_waiting_for_the_disk(
    tmp_path: Path, synthetic: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, groups = threading.Event(), []

    def fsync(descriptor: int, real: Real = os.fsync) -> None:
        if _is_partial(descriptor, "tokens"):
            opened.wait(timeout=30)
        real(descriptor)

    def write(
        split: Storage, entries: Entries, real: Callable[[Storage, Entries], None] = ledger.write
    ) -> None:
        groups.append(len(entries))
        real(split, entries)

    with _writing(tmp_path / "c.zarr", synthetic, rows=18) as split:
        monkeypatch.setattr(os, "fsync", fsync)
        monkeypatch.setattr(ledger, "write", write)
        units = split.missing()
        assert len(units) > commit._UNITS
        for unit in units[: commit._UNITS]:
            _write(split, unit, synthetic)
        assert groups == []
        opened.set()
        for unit in units[commit._UNITS :]:
            _write(split, unit, synthetic)
        assert split.missing() == []
    assert sum(groups) == len(units)
    assert len(groups) <= 2 + len(units) - commit._UNITS


def test_of_large_units_one_is_committed_while_one_is_written(
    tmp_path: Path, synthetic: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commit, "_BYTES", 1)
    with _writing(tmp_path / "c.zarr", synthetic) as split:
        units = split.missing()
        for number, unit in enumerate(units):
            _write(split, unit, synthetic)
            committed = [ledger.read(Folder(split.path), earlier) is not None for earlier in units[:number]]
            assert all(committed), unit


def test_a_disk_that_fails_costs_the_units_in_flight_and_is_explained(
    tmp_path: Path, synthetic: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fsync(descriptor: int, real: Real = os.fsync) -> None:
        if _is_partial(descriptor, "pooled"):
            raise OSError(errno.EIO, "the disk was pulled out")
        real(descriptor)

    def write_until_it_fails(path: Path) -> None:
        with _writing(path, synthetic) as split:
            for unit in split.missing()[:4]:
                _write(split, unit, synthetic)
            with monkeypatch.context() as failing:
                fifth = split.missing()[0]
                failing.setattr(os, "fsync", fsync)
                _write(split, fifth, synthetic)
                split.wait()

    path, whole = tmp_path / "c.zarr", tmp_path / "whole.zarr"
    with pytest.raises(CacheError, match=r"train\n  got: +the disk was pulled out"):
        write_until_it_fails(path)
    split = CacheReader.open(path).split("train")
    assert split.missing() == list(split.units[4:])
    assert not list(path.rglob("*.partial"))
    assert not path.with_name("c.zarr.lock").exists()
    for place in (path, whole):
        with _writing(place, synthetic) as rest:
            for unit in rest.missing():
                _write(rest, unit, synthetic)
    assert _tree(path) == _tree(whole)
