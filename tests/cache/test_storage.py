"""The folder as a storage: what its verbs promise, and workers that write through it without the lock."""

from __future__ import annotations

import os
import pickle
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from featcache.cache.labels import LabelTable
from featcache.cache.reader import CacheReader
from featcache.cache.spec import LayoutSpec, SplitSpec
from featcache.cache.storage import Folder, NewFile, Storage, folder_of, storage_at
from featcache.cache.writer import CacheWriter, SplitWriter
from featcache.errors import CacheError, ConfigError
from featcache.location import Location

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def storage(tmp_path: Path) -> Folder:
    """A storage with a few files."""
    found = Folder(tmp_path / "place")
    found.write({"a": b"1", "b/c": b"22", "b/d/e": b"333"})
    return found


def test_a_place_is_a_storage(tmp_path: Path, storage: Folder) -> None:
    for place in (tmp_path, str(tmp_path), Location.of(tmp_path)):
        assert storage_at(place) == Folder(tmp_path)
    assert storage_at(storage) is storage
    assert isinstance(storage, Storage)
    assert storage_at("~/x") == Folder(Path.home() / "x")
    with pytest.raises(ConfigError, match=r"s3://bucket"):
        storage_at("s3://bucket/key")
    with pytest.raises(TypeError):
        storage_at(3)  # type: ignore[arg-type]


def test_files_are_read_by_key(storage: Folder) -> None:
    assert (storage.read("b/c"), storage.size("b/c")) == (b"22", 2)
    for absent in ("x", "b", "a/x", ""):
        assert (storage.read(absent), storage.size(absent)) == (None, None)
    assert storage.names() == ["a", "b"]
    assert storage.names("b") == ["c", "d"]
    assert storage.names("a") == storage.names("x") == []
    assert (storage.nbytes(), storage.nbytes("b"), storage.nbytes("x")) == (6, 5, 0)
    below = storage.below("b")
    assert (str(below), below.read("d/e")) == (f"{storage}/b", b"333")
    assert pickle.loads(pickle.dumps(below)) == below
    assert folder_of(below) == storage.path / "b"


def test_a_file_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_bytes(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    with pytest.raises(CacheError, match=rf"{tmp_path}/zarr.json\n.*Permission denied"):
        CacheReader.open(tmp_path)


def test_names_are_given_in_order_and_files_replaced(
    storage: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    named: list[str] = []

    def replace(source: Path, to: Path, real: Callable[[Path, Path], None] = os.replace) -> None:
        real(source, to)
        named.append(to.name)

    monkeypatch.setattr(os, "replace", replace)
    storage.write({"z": b"", "y/n": b"new", "a": b"other"})
    assert named == ["z", "n", "a"]
    assert storage.read("a") == b"other"


def test_everything_written_is_durable_up_to_the_new_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    safe: set[int] = set()

    def fsync(descriptor: int, real: Callable[[int], None] = os.fsync) -> None:
        real(descriptor)
        safe.add(os.fstat(descriptor).st_ino)

    monkeypatch.setattr(os, "fsync", fsync)
    Folder(tmp_path / "x").write({"new/er/file": b"1"})
    for place in (tmp_path, *(tmp_path / "x" / part for part in ("", "new", "new/er", "new/er/file"))):
        assert place.stat().st_ino in safe, place
    safe.clear()
    Folder(tmp_path / "x").write({"new/er/file": b"2"})
    assert safe == {(tmp_path / "x/new/er" / name).stat().st_ino for name in ("", "file")}


def test_a_large_file_appears_when_it_is_published(storage: Folder) -> None:
    file = NewFile(storage.scratch("b/new/file"))
    file.write(memoryview(b"12345"))
    assert storage.size("b/new/file") is None
    assert file.force() == 5
    storage.publish({"b/new/file": file.path})
    assert storage.read("b/new/file") == b"12345"
    assert storage.local("b/new/file").read_bytes() == b"12345"
    file.discard()
    other = NewFile(storage.scratch("b/new/other"))
    other.discard()
    assert storage.names("b/new") == ["file"]


@pytest.mark.parametrize("prefix", ["a", "b", "b/d"])
def test_deleting_takes_unfinished_writes_along(storage: Folder, prefix: str) -> None:
    path = storage.path / prefix
    storage.scratch(prefix).write_bytes(b"unfinished")
    storage.delete(prefix)
    assert not path.exists()
    assert not list(storage.path.rglob("*.partial"))
    assert storage.nbytes() == 6 - {"a": 1, "b": 5, "b/d": 3}[prefix]
    storage.delete(prefix)


def test_a_deletion_that_was_killed_leaves_nothing_under_the_name(
    storage: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rmtree(path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as killed:
        killed.setattr("shutil.rmtree", rmtree)
        with pytest.raises(KeyboardInterrupt):
            storage.delete("b")
    assert storage.names("b") == []
    storage.delete("b")
    assert storage.names() == ["a"]


def test_workers_write_units_while_another_process_holds_the_lock(
    tmp_path: Path, whole: Path, synthetic: ModuleType, start: Start
) -> None:
    path, rows = tmp_path / "c.zarr", 14
    ids = [f"train/{row:04}.png" for row in range(rows)]
    source = SplitSpec(content="digest of train", rows=rows)
    with CacheWriter(
        path, synthetic.spec(), layout=LayoutSpec(shard_size="6"), provenance={"command": "made up"}
    ) as writer:
        split = writer.split("train", source, ids, synthetic.SHAPES)
        writer.label(LabelTable(synthetic.CLASSES, {"train": np.arange(rows) % 3}))
        writer.class_text(np.eye(3, 7, dtype=np.float32), synthetic.CLASSES, synthetic.TEMPLATES)
        assert len(split.missing()) == 9
        workers = [start(path, "--units", *range(0, 9, 2)), start(path, "--units", *range(1, 9, 2))]
        for worker in workers:
            _, errors = worker.communicate(timeout=60)
            assert (worker.returncode, errors) == (0, "")
        _, errors = start(path, "--units", 4).communicate(timeout=60)
        assert errors == "", "a unit may be written again, and gives the same files"
        assert split.missing() == []
        with pytest.raises(CacheError, match="tain"):
            SplitWriter.open(CacheReader.open(path), "tain")

    def tree(top: Path) -> dict[str, bytes]:
        return {str(file.relative_to(top)): file.read_bytes() for file in top.rglob("*") if file.is_file()}

    assert tree(path) == tree(whole)


def test_provenance_is_kept_as_fields(tmp_path: Path, synthetic: ModuleType) -> None:
    fields = {"source": "photos", "options": {"tokens": "all"}}
    path, source = tmp_path / "c.zarr", SplitSpec(content="", rows=1)
    with CacheWriter(path, synthetic.spec(), provenance=fields) as writer:
        writer.split("train", source, ["a"], synthetic.SHAPES)
    found = CacheReader.open(path).provenance
    assert "numpy" in found.pop("versions")
    assert found.pop("date") == "2023-11-14T22:13:20+00:00"
    assert found == fields
