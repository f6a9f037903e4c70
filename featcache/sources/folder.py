"""A folder of image files, in torchvision's ImageFolder layout or flat.

- `train/`, `val/` (`valid/`, `validation/`, `dev/`) and `test/` are splits; without them all is `train`.
- The first folder level inside a split is the class; class names are the sorted union over all splits.
- An image outside all class folders is unlabelled, so a flat folder is an unlabelled split. So is an image in
  a folder called `unlabelled`, `unlabeled`, `unsorted` or `-1`.

Ids are paths relative to the split's folder, so `data` and `data/train` have the same ids.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from featcache.errors import SourceError, option
from featcache.sources._files import Files, describe_unread, image_files, printable, unread_images
from featcache.sources._labels import class_name, refuse_label_column
from featcache.sources._origin import Origin
from featcache.sources._samples import Part, assemble
from featcache.sources._splits import DEFAULT, split_name
from featcache.sources._table import is_table
from featcache.sources.base import Source

UNLABELLED_FOLDERS = frozenset(["unlabelled", "unlabeled", "unsorted"])
_SPLIT_FOLDERS = frozenset(["train", "training", "val", "valid", "validation", "dev", "test", "testing"])


def match(path: Path) -> bool:
    """Return True for a folder with an image file at any depth."""
    return path.is_dir() and any(True for _ in image_files(path))


def splits(path: str, label_column: str | None = None) -> dict[str, Source]:
    """Return the splits below the folder; raise SourceError if it, or a split's folder, has no image."""
    refuse_label_column(label_column, "a folder of images has its labels in the folders' names")
    root = Path(path)
    if not match(root):
        expected = "a folder with image files, at any depth"
        raise SourceError("no images found", got=path, expected=expected)
    folders = _split_folders(root)
    listed = {split: sorted(image_files(folder)) for split, folder in folders.items()}
    classes = sorted({label for names in listed.values() for name in names if (label := _class(name))})
    parts = {
        split: Part([printable(name) for name in names], [*map(_class, names)], Files(str(folder), names))
        for (split, folder), names in zip(folders.items(), listed.values(), strict=True)
    }
    known = dict.fromkeys(name for label in classes if (name := class_name(label)))
    return assemble("image", parts, [*known], path, Origin("folder", notes=_notes(root, folders, listed)))


def _notes(root: Path, folders: Mapping[str, Path], listed: Mapping[str, list[str]]) -> tuple[str, ...]:
    """Return what is left out of a folder: files of other formats, and tables beside the images."""
    notes, unread = [], unread_images(root)
    if unread:
        notes.append(describe_unread(unread))
    for split, folder in folders.items():
        below = [
            Path(name).relative_to(folder.relative_to(root))
            for name in unread
            if folder in (root / name).parents
        ]
        heads = {path.parts[0] for path in below if len(path.parts) > 1}
        if lost := sorted(heads - {name.partition("/")[0] for name in listed[split]}):
            notes.append(f"no image of the class {', '.join(lost)} of `{split}` can be read")
    spoken = {name.partition("/")[0] for names in listed.values() for name in names if "/" in name}
    if aside := sorted(name for name in spoken if _is_aside(name)):
        all_classes = option("label_from", "LABEL/**")
        notes.append(f"{', '.join(aside)} is taken as unlabelled; {all_classes} makes it a class")
    beside = sorted(file.name for file in root.iterdir() if is_table(file) and not file.name.startswith("."))
    if beside:
        notes.append(
            f"{', '.join(beside)} beside the images is not read; for its labels, give the table as the source"
        )
    return tuple(notes)


def _split_folders(root: Path) -> dict[str, Path]:
    """Return the folder of each split.

    A single `train` folder beside others (`bus`, `car`) is a class if its images are not in folders.
    """
    children = sorted(child for child in root.iterdir() if child.is_dir() and not child.name.startswith("."))
    named = [child for child in children if child.name.lower() in _SPLIT_FOLDERS]
    others = [child for child in children if child not in named and match(child)]
    if not named or (len(named) == 1 and others and not any("/" in name for name in image_files(named[0]))):
        return {DEFAULT: root}
    found: dict[str, Path] = {}
    for child in [*named, *others]:
        split = (split_name(child.name) if child in named else None) or child.name
        if split in found:
            got = f"{found[split].name}/ and {child.name}/ in {root}"
            raise SourceError(
                f"two folders are split `{split}`", got=got, hint="rename one, or pass one of the two"
            )
        found[split] = child
    return found


def _class(name: str) -> str | None:
    """Return the class of a relative path, its first folder, or None if it has none."""
    folder, slash, _ = name.partition("/")
    return printable(folder) if slash and not _is_aside(folder) else None


def _is_aside(folder: str) -> bool:
    """Return True for the name of a folder of unlabelled images."""
    return class_name(folder) is None or folder.strip().casefold() in UNLABELLED_FOLDERS
