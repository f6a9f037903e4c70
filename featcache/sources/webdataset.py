"""WebDataset: tar shards, where members with the same name up to the first dot are one sample.

A sample has an image (`.jpg`, `.png`, ...) and may have a label: `.cls` (an index or a name) or a key of its
`.json`. Other members (captions, masks) are ignored. `classes.txt` beside the shards lists the class names,
one per line. The shards' headers are read once, on opening; then each sample takes one seek and one read.
Ids are `shard/key`.
"""

from __future__ import annotations

import tarfile
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from featcache.errors import SampleError, SourceError, option
from featcache.outside import json_of
from featcache.sources._files import IMAGE_SUFFIXES, printable
from featcache.sources._labels import LABEL_COLUMNS
from featcache.sources._origin import Origin
from featcache.sources._paths import expand, matches
from featcache.sources._samples import Part, assemble
from featcache.sources._splits import group_files
from featcache.sources.base import Source

_LABEL_MEMBERS = ("cls", "json")


def match(path: Path) -> bool:
    """Return True for .tar: a file, a pattern, or a folder with files at most two levels down."""
    return matches(path, ".tar")


def splits(path: str, label_column: str | None = None) -> dict[str, Source]:
    """Return the splits in the shards' names.

    `label_column` is a member's extension or a key of the `.json`. Raise SourceError for a shard that is
    missing, truncated or compressed, and for a label that no sample has.
    """
    root, files = expand(Path(path), ".tar")
    groups = group_files(root, files)
    asked = _Label(label_column)
    parts = {split: _part(root, shards, asked) for split, shards in groups.items()}
    asked.check_found(path)
    return assemble("image", parts, _class_names(root), path, asked.origin())


class _Member(NamedTuple):
    """Byte offset and size of a member in its shard."""

    start: int
    size: int


@dataclass
class _Label:
    """The label to look for, and the keys seen so far, for the error message if no sample has it."""

    asked: str | None
    found: bool = False
    seen: set[str] = field(default_factory=set)
    used: set[str] = field(default_factory=set)

    def of(self, extras: dict[str, bytes], where: str) -> object:
        """Return the label in the members of one sample, or None."""
        self.seen |= set(extras)
        if self.asked is not None and self.asked in extras:
            self.found = True
            self.used.add(f".{self.asked}")
            return extras[self.asked]
        if self.asked is None and "cls" in extras:
            self.used.add(".cls")
            return extras["cls"]
        record = _record(extras["json"], where) if "json" in extras else {}
        self.seen |= {f"json:{key}" for key in record}
        keys = [key for key in ((self.asked,) if self.asked else (*LABEL_COLUMNS, "cls")) if key in record]
        self.found |= bool(keys)
        self.used.update(f"json:{key}" for key in keys[:1])
        return record[keys[0]] if keys else None

    def origin(self) -> Origin:
        """Return where the labels were found."""
        name = ", ".join(sorted(self.used)) or None
        return Origin("array", name, tuple(sorted(self.seen)))

    def check_found(self, origin: str) -> None:
        """Raise SourceError if a label was asked for that no sample has."""
        if self.asked is not None and not self.found:
            raise SourceError(
                f"no sample has a label `{self.asked}`",
                got=f"{', '.join(sorted(self.seen)) or 'no label members'} in {origin}",
                hint=f"pass the extension of a member, or a key of the .json, as {option('label_column')}",
            )


@dataclass(frozen=True)
class _Reader:
    """Keeps offsets but no open files: each read opens its shard, so threads and workers share nothing."""

    shards: tuple[Path, ...]
    shard_of: array[int]
    starts: array[int]
    sizes: array[int]

    def __call__(self, row: int) -> bytes:
        if self.sizes[row] < 0:
            raise SampleError(
                "the sample has no image", expected=f"one of {' '.join(sorted(IMAGE_SUFFIXES))}"
            )
        try:
            with self.shards[self.shard_of[row]].open("rb") as stream:
                stream.seek(self.starts[row])
                return stream.read(self.sizes[row])
        except OSError as error:
            raise SampleError("the shard cannot be read", got=error.strerror) from None


def _part(root: Path, shards: list[Path], asked: _Label) -> Part:
    """Read the headers of a split's shards."""
    ids: list[str] = []
    labels: list[object] = []
    reader = _Reader(tuple(shards), array("q"), array("q"), array("q"))
    for number, shard in enumerate(shards):
        name = shard.relative_to(root).as_posix()
        for key, image, extras in _samples(shard, asked.asked):
            ids.append(printable(f"{name}/{key}"))
            labels.append(asked.of(extras, ids[-1]))
            reader.shard_of.append(number)
            reader.starts.append(image.start)
            reader.sizes.append(image.size)
    return Part(ids, labels, reader)


def _samples(shard: Path, label: str | None) -> Iterator[tuple[str, _Member, dict[str, bytes]]]:
    """Yield key, image and label members of each sample; the size is -1 if a sample has no image."""
    images: dict[str, _Member] = {}
    places: dict[str, _Member] = {}
    extras: dict[str, dict[str, bytes]] = {}
    try:
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                key, extension = _split(member.name)
                if member.isreg():
                    places[member.name] = _Member(member.offset_data, member.size)
                elif not member.islnk():
                    continue
                if f".{extension}" in IMAGE_SUFFIXES:
                    _check_new(key not in images, member.name, shard)
                    # GNU tar writes a file with several names once, and then links to it.
                    images[key] = places.get(member.linkname or member.name, _Member(0, -1))
                elif extension in (label, *_LABEL_MEMBERS) and (stream := tar.extractfile(member)):
                    extras.setdefault(key, {})[extension] = stream.read()
    except (tarfile.TarError, OSError) as error:
        raise SourceError(
            "the shard cannot be read as a tar file",
            got=f"{shard}: {error}",
            expected="a whole, uncompressed tar",
        ) from None
    for key in dict.fromkeys((*images, *extras)):
        yield key, images.get(key, _Member(0, -1)), extras.get(key, {})


def _split(name: str) -> tuple[str, str]:
    """Return the key and the lower-case extension of a member's name."""
    path = PurePosixPath(name)
    stem, _, extension = path.name.partition(".")
    return (path.parent / stem).as_posix(), extension.lower() if stem else ""


def _check_new(new: bool, name: str, shard: Path) -> None:
    """Raise SourceError for a second image of a sample."""
    if not new:
        raise SourceError(
            "a sample has two images", got=f"{name} in {shard}", expected="one image for each key"
        )


def _record(data: bytes, where: str) -> dict[str, object]:
    """Parse a `.json` member; raise SourceError if it is not an object."""
    try:
        record = json_of(data)
    except ValueError:
        record = None
    if not isinstance(record, dict):
        raise SourceError(
            "a .json member is malformed", got=f"{data[:40]!r} in {where}", expected="a JSON object"
        )
    return record


def _class_names(folder: Path) -> list[str] | None:
    """Read `classes.txt` of the folder, if there is one."""
    file = folder / "classes.txt"
    if not file.is_file():
        return None
    return [name for line in file.read_text("utf-8-sig").splitlines() if (name := line.strip())]
