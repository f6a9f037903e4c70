"""Read the headers of a tar shard: the place of each sample's image, and its labels.

A shard may come from anybody. Links are followed to members before them and nowhere else; devices, pipes and
sparse members are no images; sizes are checked against the file before anything is read.
"""

from __future__ import annotations

import os
import posixpath
import tarfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

from featcache.errors import SourceError
from featcache.files import human_bytes
from featcache.sources._files import IMAGE_SUFFIXES, open_file, printable

_MAX_LABEL = 16 * 2**20
"""Bytes of a member with labels."""
_KINDS = {tarfile.CHRTYPE: "a device", tarfile.BLKTYPE: "a device", tarfile.FIFOTYPE: "a named pipe"}


class Member(NamedTuple):
    """Byte offset and size of a member in its shard."""

    start: int
    size: int
    unread: str | None = None
    """What it is, if it is no file that can be read."""


@dataclass
class Sample:
    """The members of one key."""

    image: Member | None = None
    labels: dict[str, bytes] = field(default_factory=dict)
    """Content by extension."""
    others: list[str] = field(default_factory=list)
    """Names of other members."""

    @property
    def is_one(self) -> bool:
        """True with an image or a label; a caption alone is no sample."""
        return self.image is not None or bool(self.labels)


def read_shard(shard: Path, label_members: Collection[str]) -> dict[str, Sample]:
    """Return the samples of a shard by key: those with an image first, then those with a label only.

    Raise SourceError if it is no whole tar file, if a sample has two images or two labels of one extension,
    or if a label is too large.
    """
    found: dict[str, Sample] = {}
    try:
        with open_file(shard) as stream:
            for name, member in _members(stream):
                _add(found, name, member, label_members, stream, shard)
    except SourceError:
        raise
    except Exception as error:  # tarfile raises many types of errors for damaged headers
        raise SourceError(
            "the shard cannot be read as a tar file",
            got=f"{shard}: {error}",
            expected="a whole, uncompressed tar",
        ) from None
    return dict(sorted(found.items(), key=lambda item: item[1].image is None))


def _add(
    found: dict[str, Sample],
    name: str,
    member: Member,
    label_members: Collection[str],
    stream: BinaryIO,
    shard: Path,
) -> None:
    """Put a member into its sample."""
    key, extension = _split(name)
    if not key:
        return
    sample, is_image = found.setdefault(key, Sample()), f".{extension}" in IMAGE_SUFFIXES
    is_label = extension in label_members
    if is_image or (is_label and not sample.is_one):
        found[key] = found.pop(key)  # rows are in the order of images, or of labels where there is none
    if is_image:
        _require_new(sample.image is None, "images", name, shard)
        sample.image = member
    elif is_label:
        _require_new(extension not in sample.labels, f"members `.{extension}`", name, shard)
        sample.labels[extension] = _label(stream, name, member, shard)
    else:
        sample.others.append(name)


def _members(stream: BinaryIO) -> Iterator[tuple[str, Member]]:
    """Yield name and place of each member but folders, with links followed."""
    size, last = os.fstat(stream.fileno()).st_size, -1
    places: dict[str, Member] = {}
    with tarfile.open(fileobj=stream, mode="r:") as tar:
        for member in tar:
            stored = 0 if member.issparse() else member.size
            if not last < member.offset or not 0 <= stored <= size:
                raise tarfile.ReadError(f"the header at byte {member.offset} is damaged")
            last = member.offset
            if not member.isdir():
                place = places[posixpath.normpath(member.name)] = _place(member, places)
                yield member.name, place


def _place(member: tarfile.TarInfo, places: dict[str, Member]) -> Member:
    """Return the place of a member, or that of the one it links to.

    GNU tar writes a file with several names once, and then links to it.
    """
    if member.islnk() or member.issym():
        folder = posixpath.dirname(member.name) if member.issym() else ""
        target = posixpath.normpath(posixpath.join(folder, member.linkname))
        gone = f"a link to {printable(member.linkname)}, which is not before it in the shard"
        return places.get(target, Member(0, 0, gone))
    if member.issparse():
        return Member(0, 0, "a sparse file, which is not stored as a whole")
    if not member.isreg():
        return Member(0, 0, _KINDS.get(member.type, "no file"))
    return Member(member.offset_data, member.size)


def _split(name: str) -> tuple[str, str]:
    """Return the key and the lower-case extension of a member's name; an empty key for a hidden one."""
    path = PurePosixPath(name)
    stem, _, extension = path.name.partition(".")
    return ((path.parent / stem).as_posix(), extension.lower()) if stem else ("", "")


def _label(stream: BinaryIO, name: str, member: Member, shard: Path) -> bytes:
    """Return the content of a member with labels; raise SourceError if it is too large or no file."""
    if member.unread is not None or member.size > _MAX_LABEL:
        raise SourceError(
            "a label cannot be read",
            got=f"{printable(name)} in {shard}: {member.unread or human_bytes(member.size)}",
            expected=f"a file of at most {human_bytes(_MAX_LABEL)}",
        )
    # tarfile seeks to the next header by itself.
    stream.seek(member.start)
    return stream.read(member.size)


def _require_new(new: bool, what: str, name: str, shard: Path) -> None:
    """Raise SourceError for a second image or label of a sample."""
    if not new:
        raise SourceError(
            f"a sample has two {what}", got=f"{printable(name)} in {shard}", expected="one for each key"
        )
