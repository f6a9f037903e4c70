"""WebDataset: tar shards, where members with the same name up to the first dot are one sample.

A sample has an image (`.jpg`, `.png`, ...) and may have a label: `.cls` (an index or a name) or a key of its
`.json`. Other members (captions, masks) are ignored. `classes.txt` beside the shards lists the class names,
one per line. The shards' headers are read once, on opening; then each sample takes one seek and one read.
Ids are `shard/key`.

Nothing is ever unpacked: names of members are ids and no paths, and links lead to members of the same shard.
"""

from __future__ import annotations

import json
from array import array
from dataclasses import dataclass, field
from pathlib import Path

from featcache import limits
from featcache.errors import SampleError, SourceError, option
from featcache.sources._files import IMAGE_SUFFIXES, MAX_BYTES, open_file, printable, read_file, too_large
from featcache.sources._labels import LABEL_COLUMNS
from featcache.sources._origin import Origin
from featcache.sources._paths import expand, left_beside, matches
from featcache.sources._samples import Part, assemble
from featcache.sources._scan import describe_left_out
from featcache.sources._splits import group_files
from featcache.sources._tar import Member, read_shard
from featcache.sources.base import Source

_LABEL_MEMBERS = ("cls", "json")
_MAX_NAMES = 2**26
"""Bytes of `classes.txt`."""


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
    asked, left_out = _Label(label_column), list[str]()
    parts = {split: _part(root, shards, asked, left_out) for split, shards in groups.items()}
    asked.check_found(path)
    within = describe_left_out(left_out)
    notes = (*left_beside(Path(path), ".tar"), *([f"within the shards, {within}"] if within else []))
    return assemble("image", parts, _class_names(root), path, asked.origin(notes))


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

    def origin(self, notes: tuple[str, ...]) -> Origin:
        """Return where the labels were found, and what was left out."""
        name = ", ".join(sorted(self.used)) or None
        return Origin("array", name, tuple(sorted(self.seen)), notes=notes)

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
    reasons: dict[int, str]
    """The reason by row, for samples whose image is none."""

    def add(self, shard: int, image: Member | None) -> None:
        """Append a row."""
        if image is None or image.unread is not None:
            self.reasons[len(self.sizes)] = "" if image is None else str(image.unread)
        self.shard_of.append(shard)
        self.starts.append(image.start if image else 0)
        self.sizes.append(image.size if image else 0)

    def __call__(self, row: int) -> bytes:
        if (reason := self.reasons.get(row)) is not None:
            expected = "a file in the shard" if reason else f"one of {' '.join(sorted(IMAGE_SUFFIXES))}"
            raise SampleError("the sample has no image", got=reason or None, expected=expected)
        start, size = self.starts[row], self.sizes[row]
        if size > MAX_BYTES:
            raise too_large(size)
        try:
            with open_file(self.shards[self.shard_of[row]]) as stream:
                stream.seek(start)
                data = stream.read(size)
        except OSError as error:
            limits.require_none(error, self.shards[self.shard_of[row]])
            raise SampleError("the shard cannot be read", got=error.strerror) from None
        if len(data) < size:
            raise SampleError("the shard ends within the sample", got=f"{len(data)} of {size} bytes")
        return data


def _part(root: Path, shards: list[Path], asked: _Label, left_out: list[str]) -> Part:
    """Read the headers of a split's shards; append the members of no sample to `left_out`."""
    ids: list[str] = []
    labels: list[object] = []
    reader = _Reader(tuple(shards), array("q"), array("q"), array("q"), {})
    wanted = {*_LABEL_MEMBERS, *([asked.asked] if asked.asked else [])}
    for number, shard in enumerate(shards):
        name = shard.relative_to(root).as_posix()
        for key, sample in read_shard(shard, wanted).items():
            if not sample.is_one:
                left_out += sample.others
                continue
            ids.append(printable(f"{name}/{key}"))
            labels.append(asked.of(sample.labels, ids[-1]))
            reader.add(number, sample.image)
    return Part(ids, labels, reader)


def _record(data: bytes, where: str) -> dict[str, object]:
    """Parse a `.json` member; raise SourceError if it is not an object."""
    try:
        record = json.loads(data)
    except (ValueError, RecursionError):
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
    try:
        text = read_file(file, _MAX_NAMES).decode("utf-8-sig")
    except (SampleError, ValueError) as error:
        raise SourceError(
            "the class names cannot be read", got=f"{file}: {error}", expected="UTF-8"
        ) from None
    return [name for line in text.splitlines() if (name := line.strip())]
