"""Say what a folder of images holds and its splits do not: one sentence for each kind of thing."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from featcache.errors import SampleError, option
from featcache.sources._files import open_file, printable
from featcache.sources._labels import is_unlabelled_folder
from featcache.sources._scan import Listing, counted, describe_left_out, first_few, folders_in
from featcache.sources._splits import split_name
from featcache.sources._table import is_table

_FRAMED = (".tif", ".tiff", ".gif")
"""Endings of files that may hold several frames, of which the first is read."""
_OPENED = 3
"""Files of such an ending that are opened to see it."""


@dataclass(frozen=True)
class Layout:
    """A folder, what lies in it, and its splits."""

    root: Path
    found: Listing
    folders: Mapping[str, str]
    """The folder of each split below the root; "" is the root."""
    images: Mapping[str, list[str]]
    """The images of each split, relative to its folder."""

    @property
    def has_splits(self) -> bool:
        """True unless the whole folder is one split."""
        return "" not in self.folders.values()


def folder_notes(layout: Layout) -> tuple[str, ...]:
    """Return a sentence for each kind of thing that is left out, or that may be a mistake."""
    found = layout.found
    dead = [name for name in found.others if _leads_nowhere(layout.root / name)]
    kept = set(found.others).difference(dead)
    notes = [
        describe_left_out(kept),
        *_without_image(layout),
        *_listed("image", "in no split, beside the folders of the splits", _in_no_split(layout)),
        *_listed("image", "hidden, or in folders that a system made, and not read", found.aside),
        *_listed("link", "leading nowhere, perhaps to samples", dead),
        *_unlabelled(layout),
        *_split_like(layout),
        *_frames(layout),
        *_tables(layout),
    ]
    return tuple(printable(note) for note in notes if note)


def _listed(noun: str, what: str, names: Sequence[str]) -> Iterator[str]:
    """Count and name some files, if there are any."""
    if names:
        yield f"{counted(len(names), noun)} {what}: {first_few(names)}"


def _leads_nowhere(path: Path) -> bool:
    """Return True for a link to nothing. Where it has the name of an image, its row fails."""
    return path.is_symlink() and not os.path.exists(path)


def _without_image(layout: Layout) -> Iterator[str]:
    """Name the folders at the place of a class or a split in which no image is read."""
    for split, folder in layout.folders.items():
        holding = {name.partition("/")[0] for name in layout.images[split] if "/" in name}
        if lost := sorted({*folders_in(layout.root / folder)} - holding):
            yield f"no image of the class {first_few(lost)} of `{split}` can be read"
    if layout.has_splits and (lost := sorted({*folders_in(layout.root)} - {*layout.folders.values()})):
        yield f"no image is read from {first_few(lost)}"


def _in_no_split(layout: Layout) -> list[str]:
    """Return the images that lie beside the folders of the splits, and are not read."""
    return [name for name in layout.found.images if "/" not in name] if layout.has_splits else []


def _unlabelled(layout: Layout) -> Iterator[str]:
    heads = {name.partition("/")[0] for names in layout.images.values() for name in names if "/" in name}
    if aside := sorted(filter(is_unlabelled_folder, heads)):
        all_classes = option("label_from", "LABEL/**")
        yield f"{', '.join(aside)} is taken as unlabelled; {all_classes} makes it a class"


def _split_like(layout: Layout) -> Iterator[str]:
    """Ask about folders that look like splits and are none: `train2017` beside `val2017`, `images/train`."""
    if layout.has_splits:
        return
    by_parent: dict[str, set[str]] = {}
    for name in layout.found.images:
        parts = name.split("/")[:-1]
        for depth, part in enumerate(parts[:3]):
            by_parent.setdefault("/".join(parts[:depth]), set()).add(part)
    for parent, names in sorted(by_parent.items()):
        if len({split for name in names if (split := split_name(name))}) < 2 or not all(
            map(split_name, names)
        ):
            continue
        listed = first_few(sorted(names))
        instead = (
            f"give {layout.root / parent} as the source" if parent else "rename them to train, val and test"
        )
        yield f"the folders {listed} look like splits, and are not taken as such; {instead} if they are"
        return


def _frames(layout: Layout) -> Iterator[str]:
    """Say that only the first frame is read, where one of the first files of a format has several."""
    several = []
    for ending in _FRAMED:
        few = [name for name in layout.found.images if name.lower().endswith(ending)][:_OPENED]
        several += [name for name in few if _has_frames(layout.root / name)]
    if several:
        yield f"only the first frame is read of images that hold several, such as {first_few(several)}"


def _has_frames(path: Path) -> bool:
    """Return True for an image with a second frame; False also if it cannot be read."""
    from featcache.sources._image import has_frames

    try:
        with open_file(path) as stream:
            return has_frames(stream)
    except (OSError, SampleError):
        return False


def _tables(layout: Layout) -> Iterator[str]:
    """Name the tables and annotations beside the images, which may hold their labels."""
    places = {"", *layout.folders.values()}
    beside = [
        name
        for name in layout.found.others
        if name.rpartition("/")[0] in places and (is_table(layout.root / name) or _is_annotation(name))
    ]
    if beside:
        table = "the table" if is_table(layout.root / beside[0]) else "a .csv of path and label"
        yield f"{first_few(beside)} beside the images is not read; for its labels, give {table} as the source"


def _is_annotation(name: str) -> bool:
    stem, _, ending = name.rpartition("/")[2].lower().rpartition(".")
    return ending in ("txt", "json", "xml") and ("annotation" in stem or "label" in stem)
