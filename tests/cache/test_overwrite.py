"""Overwriting a cache: there is always one whole cache, and nothing is left at the end."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import zarr

from featcache.cache.labels import LabelTable
from featcache.cache.reader import CacheReader
from featcache.cache.spec import SplitSpec
from featcache.cache.storage import Folder
from featcache.cache.writer import CacheWriter
from featcache.errors import CacheError

Start = Callable[..., "subprocess.Popen[str]"]
Tree = dict[str, bytes]


def _tree(path: Path) -> Tree:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def _beside(path: Path) -> set[str]:
    return {entry.name for entry in path.parent.iterdir() if entry.name.startswith(path.name)}


@pytest.fixture
def old(tmp_path: Path, synthetic: ModuleType) -> Path:
    """A cache of another spec, with one split more, to be replaced."""
    other = synthetic.spec(dtype="float16")
    synthetic.write(tmp_path / "c.zarr", rows=9, cache=other, names=("train", "x"))
    return tmp_path / "c.zarr"


@pytest.fixture
def interrupted(old: Path, start: Start) -> Path:
    """A cache whose overwriting was killed after a few of the nine units."""
    program = start(old, "--overwrite", "--pause", 0.03)
    ledger = old.with_name("c.zarr.partial") / "train" / "status" / "ledger"
    while len(list(ledger.glob("?.?.json"))) < 3:
        assert program.poll() is None, program.communicate()
        time.sleep(0.005)
    program.kill()
    program.communicate()
    return old


def test_the_old_cache_stays_until_the_new_one_is_whole(
    old: Path, whole: Path, synthetic: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, seen = _tree(old), []

    def batch(*arguments: Any, real: Callable[..., Any] = synthetic.batch) -> Any:
        seen.append(_tree(old) == before)
        return real(*arguments)

    monkeypatch.setattr(synthetic, "batch", batch)
    synthetic.write(old, overwrite=True)
    assert seen == [True] * 15
    assert _tree(old) == _tree(whole)
    assert _beside(old) == {"c.zarr"}


@pytest.mark.slow
def test_killed_at_any_step_there_is_one_whole_cache(
    tmp_path: Path, old: Path, whole: Path, synthetic: ModuleType, start: Start
) -> None:
    before, finished = _tree(old), _tree(whole)
    # While the new cache is made, around the exchange, and while the old one is deleted.
    events = [2, 5, 9, 15, 24, 40, 54, 120, 200, 300, 400, *range(488, 516, 2), *range(530, 800, 27)]
    for event in events:
        shutil.copytree(old, tmp_path / f"k-{event}.zarr")
    out, errors = start(tmp_path / "k.zarr", "--overwrite", "--kill-at", *events).communicate(timeout=300)
    assert errors == ""
    assert {line.split()[1] for line in out.splitlines()} <= {"-9", "0"}
    replaced = []
    for event in events:
        path = tmp_path / f"k-{event}.zarr"
        left = {name: data for name, data in _tree(path).items() if name != "replaced"}
        assert left in (before, finished), event
        replaced.append(left == finished)
        synthetic.write(path, overwrite=event % 2 == 0 or left == before)
        assert _tree(path) == finished, event
        assert _beside(path) == {path.name}, event
    assert {*replaced} == {False, True}


def test_the_same_command_goes_on(interrupted: Path, whole: Path, synthetic: ModuleType) -> None:
    begun = interrupted.with_name("c.zarr.partial") / "train" / "tokens"
    files = {file.stat().st_ino for file in begun.rglob("?") if file.is_file()}
    synthetic.write(interrupted, overwrite=True)
    assert files
    assert files <= {file.stat().st_ino for file in (interrupted / "train" / "tokens").rglob("?")}
    assert _tree(interrupted) == _tree(whole)
    assert _beside(interrupted) == {"c.zarr"}


@pytest.mark.parametrize(
    "other",
    [
        {"rows": 13},
        {"names": ("test",)},
        {"shard_size": "5"},
        {"dtype": "bfloat16"},
        {"damaged": True},
        {"gone": True},
    ],
    ids=lambda other: next(iter(other)),
)
def test_another_command_begins_anew(
    interrupted: Path, tmp_path: Path, synthetic: ModuleType, other: dict[str, Any]
) -> None:
    if other.pop("damaged", False):
        (interrupted.with_name("c.zarr.partial") / "train" / "zarr.json").write_text("{")
    if other.pop("gone", False):
        shutil.rmtree(interrupted)
    if "dtype" in other:
        other["cache"] = synthetic.spec(dtype=other.pop("dtype"))
    synthetic.write(interrupted, overwrite=True, **other)
    synthetic.write(tmp_path / "new.zarr", **other)
    assert _tree(interrupted) == _tree(tmp_path / "new.zarr")
    assert _beside(interrupted) == {"c.zarr"}


def test_another_source_begins_anew(interrupted: Path, synthetic: ModuleType) -> None:
    with CacheWriter(interrupted, synthetic.spec(), overwrite=True, provenance={"source": "b"}) as writer:
        split = writer.split("train", SplitSpec(content="b", rows=1), ["a"], synthetic.SHAPES)
        assert len(split.missing()) == 3
    assert CacheReader.open(interrupted).spec.dtype == "float16", "not complete"
    found = CacheReader.open(interrupted.with_name("c.zarr.partial")).provenance
    assert (found["source"], "command" in found) == ("b", False)


def test_what_a_killed_overwrite_left_disturbs_nobody(interrupted: Path, synthetic: ModuleType) -> None:
    before, other = _tree(interrupted), synthetic.spec(dtype="float16")
    with CacheWriter(interrupted, other) as writer:
        writer.label(LabelTable(("cat",), {"train": np.zeros(9, int)}))
    assert "c.zarr.partial" in _beside(interrupted), "labelling is no reason to lose what was computed"
    assert CacheReader.open(interrupted).split("train").complete()
    with pytest.raises(CacheError, match="dtype"):
        synthetic.write(interrupted)
    assert "c.zarr.partial" in _beside(interrupted), "a command that fails deletes nothing"
    synthetic.write(interrupted, rows=9, cache=other, names=("train", "x"))
    assert _tree(interrupted) == before
    assert _beside(interrupted) == {"c.zarr"}


def test_what_others_put_into_the_folder_stays(old: Path, synthetic: ModuleType) -> None:
    (old / "notes" / "more").mkdir(parents=True)
    (old / "notes" / "more" / "read.me").write_text("mine")
    (old / "read.me").write_text("mine")
    zarr.create_array(old / "umap", shape=(2,), dtype="float32")[...] = 7
    (old / "x" / "zarr.json").unlink()  # a part of the cache all the same
    synthetic.write(old, overwrite=True)
    assert (old / "notes" / "more" / "read.me").read_text() == (old / "read.me").read_text() == "mine"
    assert zarr.open_array(old / "umap")[0] == 7
    names = {"notes", "read.me", "umap", "zarr.json", "train", "labels", "class_text"}
    assert {entry.name for entry in old.iterdir()} == names


def test_a_link_stays_a_link(old: Path, tmp_path: Path, whole: Path, synthetic: ModuleType) -> None:
    (tmp_path / "disk").mkdir()
    shutil.move(old, tmp_path / "disk" / "real.zarr")
    old.symlink_to(tmp_path / "disk" / "real.zarr")
    synthetic.write(old, overwrite=True)
    assert old.is_symlink()
    assert _tree(tmp_path / "disk" / "real.zarr") == _tree(whole)
    assert os.listdir(tmp_path / "disk") == ["real.zarr"]
    assert _beside(old) == {"c.zarr"}


def test_a_folder_of_somebody_else_is_left_as_it_is(old: Path, synthetic: ModuleType) -> None:
    mine = old.with_name("c.zarr.partial")
    mine.mkdir()
    (mine / "a").write_text("mine")
    before = _tree(old)
    with pytest.raises(CacheError, match=r"c\.zarr\.partial"):
        synthetic.write(old, overwrite=True)
    synthetic.write(old, rows=9, cache=synthetic.spec(dtype="float16"))
    assert (_tree(old), _tree(mine)) == (before, {"a": b"mine"})


def test_the_root_of_a_disk_cannot_be_replaced(
    old: Path, synthetic: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "is_mount", lambda path: path == old)
    before = _tree(old)
    with pytest.raises(CacheError, match="root of a disk"):
        synthetic.write(old, overwrite=True)
    synthetic.write(old, rows=9, cache=synthetic.spec(dtype="float16"))
    assert _tree(old) == before


def test_no_place_is_taken_before_every_split_is_complete(old: Path, synthetic: ModuleType) -> None:
    before = _tree(old)
    with CacheWriter(old, synthetic.spec(), overwrite=True) as writer:
        writer.split("train", SplitSpec(content="", rows=14), list("abcdefghijklmn"), synthetic.SHAPES)
    assert _tree(old) == before
    with pytest.raises(KeyError), CacheWriter(old, synthetic.spec(), overwrite=True) as writer:
        raise KeyError
    assert _tree(old) == before


@pytest.mark.parametrize("step", [1, 2, 3, 4])
def test_where_the_system_cannot_exchange_a_kill_is_mended_by_the_next_writer(
    old: Path, whole: Path, synthetic: ModuleType, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    before, renamed = _tree(old), 0
    shutil.copytree(whole, old.with_name("c.zarr.partial"))

    def replace(source: Path, to: Path, real: Callable[..., None] = os.replace) -> None:
        nonlocal renamed
        renamed += 1
        if renamed == step:
            raise KeyboardInterrupt
        real(source, to)

    with monkeypatch.context() as killed:
        killed.setattr(ctypes, "CDLL", lambda name: object())
        killed.setattr(os, "replace", replace)
        with suppress(KeyboardInterrupt):
            Folder(old).replace()
    assert renamed == min(step, 3)
    with CacheWriter(old, CacheReader.open(whole).spec, overwrite=True):
        pass
    assert _tree(old) == (before if step < 3 else _tree(whole))
    assert _beside(old) <= {"c.zarr", "c.zarr.partial"}
    synthetic.write(old, overwrite=True)
    assert _tree(old) == _tree(whole)
    assert _beside(old) == {"c.zarr"}
