"""A folder of image files, in torchvision's ImageFolder layout or flat.

- `train/`, `val/` (`valid/`, `validation/`, `dev/`) and `test/` are splits; without them all is `train`.
- The first folder level inside a split is the class; class names are the sorted union over all splits.
- An image outside all class folders is unlabelled, so a flat folder is an unlabelled split. So is an image in
  a folder called `unlabelled`, `unlabeled`, `unsorted` or `-1`.

Ids are paths relative to the split's folder, so `data` and `data/train` have the same ids.
"""

from __future__ import annotations

from pathlib import Path

from featcache.errors import SourceError
from featcache.sources._files import Files, printable
from featcache.sources._labels import class_name, is_unlabelled_folder, refuse_label_column
from featcache.sources._left_out import Layout, folder_notes
from featcache.sources._origin import Origin
from featcache.sources._samples import Part, assemble
from featcache.sources._scan import Listing, folders_in, image_files, scan
from featcache.sources._splits import DEFAULT, split_name
from featcache.sources.base import Source

_SPLIT_FOLDERS = frozenset(["train", "training", "val", "valid", "validation", "dev", "test", "testing"])


def match(path: Path) -> bool:
    """Return True for a folder with an image file at any depth."""
    return path.is_dir() and any(True for _ in image_files(path))


def splits(path: str, label_column: str | None = None) -> dict[str, Source]:
    """Return the splits below the folder; raise SourceError if it, or a split's folder, has no image."""
    refuse_label_column(label_column, "a folder of images has its labels in the folders' names")
    root = Path(path)
    found = scan(root) if root.is_dir() else Listing()
    if not found.images:
        raise SourceError("no images found", got=path, expected="a folder with image files, at any depth")
    folders = _split_folders(root, found)
    layout = Layout(root, found, folders, {split: found.below(name) for split, name in folders.items()})
    classes = sorted({label for names in layout.images.values() for name in names if (label := _class(name))})
    parts = {
        split: Part(
            [printable(name) for name in names],
            [*map(_class, names)],
            Files(str(root / folders[split]), names),
        )
        for split, names in layout.images.items()
    }
    known = dict.fromkeys(name for label in classes if (name := class_name(label)))
    origin = Origin("folder", notes=folder_notes(layout))
    return assemble("image", parts, [*known], path, origin)


def _split_folders(root: Path, found: Listing) -> dict[str, str]:
    """Return the name of the folder of each split; "" is the root itself.

    A single `train` folder beside others (`bus`, `car`) is a class if its images are not in folders.
    """
    holding = {name.partition("/")[0] for name in found.images if "/" in name}
    named = [name for name in folders_in(root) if name.lower() in _SPLIT_FOLDERS]
    others = sorted(holding - {*named})
    if not named or (len(named) == 1 and others and not any("/" in name for name in found.below(named[0]))):
        return {DEFAULT: ""}
    folders: dict[str, str] = {}
    for name in [*named, *others]:
        split = (split_name(name) if name in named else None) or name
        if split in folders:
            got = f"{folders[split]}/ and {name}/ in {root}"
            raise SourceError(
                f"two folders are split `{split}`", got=got, hint="rename one, or pass one of the two"
            )
        folders[split] = name
    return folders


def _class(name: str) -> str | None:
    """Return the class of a relative path, its first folder, or None if it has none."""
    folder, slash, _ = name.partition("/")
    return printable(folder) if slash and not is_unlabelled_folder(folder) else None
