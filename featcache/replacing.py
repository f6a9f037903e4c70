"""Put a folder in the place of another one, so that a kill at any moment leaves one of them whole there."""

from __future__ import annotations

import ctypes
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from featcache.files import PARTIAL, partial, sync

_MARK, _ASIDE = "replaced", ".aside"
"""A file in the folder that is replaced, so that it is not taken for the new one; the ending of its name
within an exchange that takes two steps."""
_HERE, _EXCHANGE = -100, 2
"""Relative paths begin in the current folder (AT_FDCWD); RENAME_EXCHANGE, RENAME_SWAP."""


def replace(path: Path) -> None:
    """Put the folder `PATH.partial` in the place of `path`, which may not be there; call `tidy` then."""
    new = partial(path)
    if path.exists():
        (path / _MARK).touch()
        _exchange(path, new)
    else:
        os.replace(new, path)
    sync({path.parent})


def tidy(path: Path, is_own: Callable[[Path], bool], description: str) -> None:
    """Delete what `replace` replaced, also where it was killed.

    Entries that are not `is_own` move to the new folder. The file `description`, which makes a folder what it
    is, goes last.
    """
    old, aside = partial(path), path.with_name(path.name + _ASIDE)
    if aside.is_dir():  # killed between two steps
        os.replace(aside, old if path.exists() else path)
    if (old / _MARK).exists():
        _discard(old, path, is_own, description)
    if (path / _MARK).exists():  # killed before the exchange
        (path / _MARK).unlink()
    if partial(old).is_dir():  # killed while it was deleted
        shutil.rmtree(partial(old))


def _discard(old: Path, new: Path, is_own: Callable[[Path], bool], description: str) -> None:
    for entry in old.iterdir():
        if entry.name in (_MARK, description):
            continue
        own = entry.name.endswith(PARTIAL) or is_own(entry)
        if not own and not (new / entry.name).exists():
            os.replace(entry, new / entry.name)
        elif entry.is_symlink() or not entry.is_dir():
            entry.unlink()
        else:
            dying = entry if entry.name.endswith(PARTIAL) else entry.replace(partial(entry))
            shutil.rmtree(dying)  # under a name that tells what it is, also when half of it is gone
    (old / description).unlink(missing_ok=True)
    (old / _MARK).unlink()
    old.rmdir()


def _exchange(one: Path, other: Path) -> None:
    """Exchange the names of two folders; where the system cannot do this at once, in steps."""
    if not _exchanged(one, other):
        aside = one.with_name(one.name + _ASIDE)
        os.replace(one, aside)
        os.replace(other, one)
        os.replace(aside, other)


def _exchanged(one: Path, other: Path) -> bool:
    """Ask the system for an atomic exchange; return False if it has none, or refuses, as some disks do."""
    system, paths = ctypes.CDLL(None), (os.fsencode(one), os.fsencode(other))
    if (linux := getattr(system, "renameat2", None)) is not None:
        return bool(linux(_HERE, paths[0], _HERE, paths[1], _EXCHANGE) == 0)
    if (darwin := getattr(system, "renamex_np", None)) is not None:
        return bool(darwin(*paths, _EXCHANGE) == 0)
    return False
