"""A folder of links or copies: never over anything else, whole after a kill, the same after a second call."""

from __future__ import annotations

import os
import shutil

import pytest

from featcache.errors import ConfigError, FileError
from featcache.filing.folders import MANIFEST, Folder


@pytest.fixture
def files(tmp_path):
    (tmp_path / "photos" / "day 1").mkdir(parents=True)
    found = {}
    for number, name in enumerate(["cat/a.png", "cat/b.png", "unsure/dog, big/c.png"]):
        source = tmp_path / "photos" / "day 1" / f"{number}.png"
        source.write_bytes(b"x" * (number + 1))
        found[name] = source
    return found


def content(folder):
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file() and file.name != MANIFEST
    }


@pytest.mark.parametrize("kind", ["links", "copies"])
def test_files_are_where_they_belong_and_stay_where_they_are(files, tmp_path, kind):
    before = content(tmp_path / "photos")
    folder = tmp_path / "new" / "sorted"
    Folder.plan(folder, kind, files).fill()
    expected = {name: source.read_bytes() for name, source in files.items()}
    assert content(folder) == expected
    assert (folder / "cat" / "a.png").is_symlink() == (kind == "links")
    os.remove(folder / "cat" / "a.png")
    Folder.plan(folder, kind, files).fill()
    assert content(folder) == expected
    assert content(tmp_path / "photos") == before


def test_only_the_same_files_of_an_earlier_call_are_completed(files, tmp_path):
    folder = tmp_path / "sorted"
    Folder.plan(folder, "copies", files).fill()
    before = content(folder)
    others = {**files, "dog/b.png": files["cat/b.png"]}
    for kind, asked in (("copies", others), ("links", files)):
        with pytest.raises(ConfigError, match=r"holds something else[\s\S]*cat"):
            Folder.plan(folder, kind, asked)
    files["cat/a.png"].write_bytes(b"changed")
    with pytest.raises(ConfigError, match="holds something else"):
        Folder.plan(folder, "copies", files)
    assert content(folder) == before


def test_other_places_are_refused(files, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("years")
    with pytest.raises(ConfigError, match=r"thesis\.tex"):
        Folder.plan(tmp_path / "full", "links", files)
    with pytest.raises(ConfigError, match="a file"):
        Folder.plan(tmp_path / "full" / "thesis.tex", "copies", files)
    (tmp_path / "link").symlink_to(tmp_path / "photos")
    for inside in ("photos/sorted", "photos", "link/sorted"):
        with pytest.raises(ConfigError, match=r"lies in the source[\s\S]*outside"):
            Folder.plan(tmp_path / inside, "links", files, outside=tmp_path / "photos")


@pytest.mark.parametrize("broken", [0, 1, 2])
def test_a_crash_leaves_whole_copies_and_a_second_call_completes_them(files, tmp_path, monkeypatch, broken):
    folder, copy, done = tmp_path / "sorted", shutil.copy2, []

    def crash(source, target):
        if len(done) == broken:
            target.write_bytes(source.read_bytes()[:1])
            raise KeyboardInterrupt
        done.append(copy(source, target))

    monkeypatch.setattr("featcache.filing.folders._AT_ONCE", 1)
    monkeypatch.setattr("shutil.copy2", crash)
    with pytest.raises(KeyboardInterrupt):
        Folder.plan(folder, "copies", files).fill()
    whole = [name for name in files if (folder / name).exists()]
    assert len(whole) == broken
    assert all((folder / name).read_bytes() == files[name].read_bytes() for name in whole)
    monkeypatch.undo()
    Folder.plan(folder, "copies", files).fill()
    assert content(folder) == {name: source.read_bytes() for name, source in files.items()}


def test_what_the_disk_says_is_explained(files, tmp_path, monkeypatch):
    def refuse(source, target):
        raise PermissionError(1, "Operation not permitted")

    def fill(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.symlink", refuse)
    with pytest.raises(FileError, match=r"no symbolic links[\s\S]*copy_to"):
        Folder.plan(tmp_path / "sorted", "links", files).fill()
    monkeypatch.setattr(
        "os.symlink", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    with pytest.raises(FileError, match=r"full[\s\S]*No space left"):
        Folder.plan(tmp_path / "sorted", "links", files).fill()
    monkeypatch.setattr("shutil.disk_usage", lambda path: shutil._ntuple_diskusage(9, 9, 0))
    with pytest.raises(FileError, match=r"cannot hold[\s\S]*in_place_links"):
        Folder.plan(tmp_path / "copies", "copies", files)
    assert not (tmp_path / "copies").exists()
