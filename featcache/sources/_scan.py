"""List what lies below a folder: the images, and all that is left out, so that nothing vanishes unnamed."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from featcache.errors import SourceError
from featcache.sources._files import IMAGE_SUFFIXES

_SYSTEM_FOLDERS = frozenset(["@eadir", "__macosx", "$recycle.bin", "system volume information", "lost+found"])
"""Folders of file servers and systems, in lower case: thumbnails, sidecars and deleted files."""
_COMPANIONS = re.compile(
    r".*\.(txt|md|rst|json|jsonl|ya?ml|xml|csv|tsv|xlsx?|xmp|aae|html?|ini|toml|cfg|log|db|py|ipynb|sh|license"
    r"|md5|sha256|cls|caption)|readme|license|licence|notice|makefile|md5sums?|sha256sums?",
    re.IGNORECASE,
)
"""Names of files that people have beside samples, and that are none."""
_MAX_LINKED = 10_000
"""Folders that may be reached more than once: links between folders can spell names without end."""
_NEVER = frozenset([".git", "lost+found"])
"""Folders that are not searched for images that were set aside: large, or closed."""
_SHOWN = 5


class _Folder(NamedTuple):
    """A folder to list: its name below the root, and the identities of the folders that it lies in."""

    name: str
    aside: bool
    above: frozenset[tuple[int, int]]


class Entry(NamedTuple):
    """A file below a folder."""

    name: str
    """Relative POSIX path."""
    aside: bool
    """True for what is hidden, or lies in a folder that a system made."""


@dataclass(frozen=True)
class Listing:
    """The files below a folder, as relative POSIX paths in order."""

    images: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    """Files that are no images by their names."""
    aside: list[str] = field(default_factory=list)
    """Images that are hidden, or lie in a folder that a system made."""

    def below(self, folder: str) -> list[str]:
        """Return the images in a folder, relative to it; "" is the whole."""
        head = f"{folder}/" if folder else ""
        return [name.removeprefix(head) for name in self.images if name.startswith(head)]


def scan(root: Path) -> Listing:
    """List a folder; raise SourceError as `walk` does."""
    found = Listing()
    for entry in walk(root, aside=True):
        if not entry.aside:
            (found.images if is_image(entry.name) else found.others).append(entry.name)
        elif is_image(entry.name) and not entry.name.rpartition("/")[2].startswith("._"):
            found.aside.append(entry.name)
    for names in (found.images, found.others, found.aside):
        names.sort()
    return found


def folders_in(folder: Path) -> list[str]:
    """Return the names of the folders directly below one, without those set aside."""
    return [e.name for e in _entries(folder) if _is_folder(e) and not _is_aside(e.name)]


def image_files(root: Path) -> Iterator[str]:
    """Yield the images below `root` as relative POSIX paths; raise SourceError as `walk` does."""
    return (entry.name for entry in walk(root) if is_image(entry.name))


def is_image(name: str) -> bool:
    """Return True for the name of an image in a format that is read; white space around it is ignored."""
    return _ending(name) in IMAGE_SUFFIXES


def walk(root: Path, *, aside: bool = False, depth: int | None = None) -> Iterator[Entry]:
    """Yield the files below `root`, at most `depth` levels down, and those set aside if asked.

    Links to folders are followed, but not to a folder that the link lies in, which would lead on forever. An
    empty folder with the name of an image counts as a file, which cannot be read. Raise SourceError for a
    folder that cannot be listed, and for links between folders that lead to too many.
    """
    seen: set[tuple[int, int]] = set()
    outside = frozenset(_identity(parent) for parent in root.resolve().parents)
    again, waiting = 0, [_Folder("", False, outside)]
    while waiting:
        folder = waiting.pop()
        try:
            at, entries = _identity(root / folder.name), _entries(root / folder.name)
        except SourceError:
            if folder.aside:
                continue
            raise
        if at in folder.above:
            continue
        again += at in seen
        if again > _MAX_LINKED:
            what = "links between folders lead to too many folders"
            raise SourceError(what, got=str(root), hint="remove some of the links")
        seen.add(at)
        if not entries and is_image(folder.name):
            yield Entry(folder.name, folder.aside)
        for entry in entries:
            name = f"{folder.name}/{entry.name}" if folder.name else entry.name
            hidden = folder.aside or _is_aside(entry.name)
            if hidden and not aside:
                continue
            if not _is_folder(entry):
                yield Entry(name, hidden)
            elif entry.name not in _NEVER and (depth is None or name.count("/") + 1 < depth):
                waiting.append(_Folder(name, hidden, folder.above | {at}))


def describe_left_out(names: Iterable[str]) -> str | None:
    """Count files that are not read by their endings; None where there are only companions of samples.

    >>> describe_left_out(["a.heic", "b.HEIC", "c", "a.json"])
    '3 files of formats that are not read: .heic (2), no ending (1)'
    """
    endings = Counter(_ending(name) or "no ending" for name in names if not is_companion(name))
    if not endings:
        return None
    listed = ", ".join(f"{ending} ({count})" for ending, count in sorted(endings.items()))
    return f"{counted(endings.total(), 'file')} of formats that are not read: {listed}"


def is_companion(name: str) -> bool:
    """Return True for a file that people have beside samples, such as a table, a caption or a README."""
    return _COMPANIONS.fullmatch(PurePosixPath(name).name.strip()) is not None


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, as `1 file` or `2 files`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def first_few(names: Sequence[str]) -> str:
    """List the first names, and say how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _ending(name: str) -> str:
    return os.path.splitext(name)[1].strip().lower()


def _is_aside(name: str) -> bool:
    return name.startswith(".") or name.lower() in _SYSTEM_FOLDERS


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """Return what is in a folder, by name; raise SourceError if it cannot be listed."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise _closed(folder, error) from None


def _identity(folder: Path) -> tuple[int, int]:
    try:
        found = folder.stat()
    except OSError as error:
        raise _closed(folder, error) from None
    return found.st_dev, found.st_ino


def _closed(folder: Path, error: OSError) -> SourceError:
    return SourceError(
        "a folder cannot be listed",
        got=f"{folder}: {error.strerror or type(error).__name__}",
        hint="make it readable, or move it away: nobody knows which samples are in it",
    )


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False
