"""Fill a folder with links to files, or with copies of them, so that a kill leaves only whole files."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from featcache.errors import ConfigError, FileError, option
from featcache.files import explained, free_bytes, human_bytes, partial, sync, write_atomic

MANIFEST = ".featcache.json"
"""The list of what belongs into the folder. It tells an earlier folder of ours from any other."""
_AT_ONCE = 64
_NO_LINKS = {errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EOPNOTSUPP}
"""Errors of file systems without symbolic links, or of users who may not make them."""
Kind = Literal["links", "copies"]


@dataclass(frozen=True)
class Folder:
    """A folder to fill, after a check that this may be done."""

    path: Path
    kind: Kind
    files: Mapping[str, Path]
    """Absolute paths of the originals, by their relative POSIX place in the folder."""

    @classmethod
    def plan(
        cls, path: Path, kind: Kind, files: Mapping[str, Path], *, outside: Path | None = None
    ) -> Folder:
        """Check that the folder can be filled; write nothing.

        Raises ConfigError if it holds anything but the same files from an earlier call, or if it lies in the
        folder `outside`, the source: its files would be samples of the next extraction. Raises FileError if
        the disk is too small.
        """
        flag = option("in_place_links" if kind == "links" else "copy_to")
        place = Path(os.path.abspath(path))
        folder = cls(place, kind, files)
        if outside is not None and outside.is_dir() and place.resolve().is_relative_to(outside.resolve()):
            raise ConfigError(
                f"{path} lies in the source, whose next extraction would read the sorted files as well",
                expected=f"a folder outside {outside}",
                hint=f"choose another {flag}",
            )
        with explained(place):
            there = sorted(os.listdir(place)) if place.is_dir() else [] if not place.exists() else None
        if there is None or (set(there) - {partial(Path(MANIFEST)).name} and not folder._is_ours()):
            raise ConfigError(
                f"{path} exists and holds something else; it is left as it is",
                got="a file" if there is None else ", ".join(there[:3]) + (", ..." if len(there) > 3 else ""),
                expected="an empty folder, nothing, or the same files from an earlier call",
                hint=f"choose another {flag}",
            )
        folder._refuse_small_disk()
        return folder

    def fill(self) -> None:
        """Make the links or copies that are not there yet. Originals are only read."""
        with explained(self.path, again="free some space and repeat the command"):
            self.path.mkdir(parents=True, exist_ok=True)
            write_atomic(self.path / MANIFEST, self._manifest())
            missing = [(self.path / name, source) for name, source in self.files.items() if self._lacks(name)]
            for folder in {target.parent for target, _ in missing}:
                folder.mkdir(parents=True, exist_ok=True)
            if self.kind == "links":
                for target, source in missing:
                    _link(target, source)
                return
            for start in range(0, len(missing), _AT_ONCE):
                part = missing[start : start + _AT_ONCE]
                for target, source in part:
                    shutil.copy2(source, partial(target))
                sync(partial(target) for target, _ in part)
                for target, _ in part:
                    os.replace(partial(target), target)

    def _lacks(self, name: str) -> bool:
        return not os.path.lexists(self.path / name)

    def _manifest(self) -> bytes:
        """Say what the folder holds; the size and time of an original tell whether it is still the same."""
        listed = []
        for name, source in self.files.items():
            state = source.stat()
            listed.append([name, str(source), state.st_size, state.st_mtime_ns])
        return (json.dumps({"kind": self.kind, "files": listed}, indent=0) + "\n").encode()

    def _is_ours(self) -> bool:
        try:
            return (self.path / MANIFEST).read_bytes() == self._manifest()
        except OSError:
            return False

    def _refuse_small_disk(self) -> None:
        if self.kind == "links":
            return
        needed = sum(source.stat().st_size for name, source in self.files.items() if self._lacks(name))
        if (free := free_bytes(self.path)) < needed:
            raise FileError(
                "the disk cannot hold the copies",
                got=f"{human_bytes(free)} free",
                expected=human_bytes(needed),
                hint=f"choose {option('in_place_links')}, which takes no space, or another disk",
            )


def _link(target: Path, source: Path) -> None:
    try:
        os.symlink(source, target)
    except (NotImplementedError, OSError) as error:
        if getattr(error, "errno", errno.EPERM) not in _NO_LINKS:
            raise
        raise FileError(
            "this place takes no symbolic links",
            got=f"{getattr(error, 'strerror', None) or error} ({target})",
            hint=f"use {option('copy_to')}",
        ) from error
