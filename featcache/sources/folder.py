"""A folder of image files, in torchvision's ImageFolder layout or flat.

- `train/`, `val/` (`valid/`, `validation/`, `dev/`) and `test/` are splits; without them all is `train`.
- Inside a split the first folder level is the class; class names are the sorted union over all splits.
- An image outside any class folder is unlabelled, so a flat folder is an unlabelled split.

Ids are paths relative to the split's folder, so that `data` and `data/train` give the same ones.
"""

from __future__ import annotations

from pathlib import Path

from featcache.errors import SourceError
from featcache.sources._files import Files, image_files, printable
from featcache.sources._labels import refuse_label_column
from featcache.sources._samples import Part, assemble
from featcache.sources._splits import DEFAULT, split_name
from featcache.sources.base import Source

_SPLIT_FOLDERS = frozenset(["train", "training", "val", "valid", "validation", "dev", "test", "testing"])


def match(path: Path) -> bool:
    """A folder with an image file somewhere below."""
    return path.is_dir() and any(True for _ in image_files(path))


def splits(path: str, label_column: str | None = None) -> dict[str, Source]:
    """The splits below the folder; raises SourceError where it, or a split's folder, holds no image."""
    refuse_label_column(label_column, "a folder of images has its labels in the folders' names")
    root = Path(path)
    if not match(root):
        raise SourceError("no images found", got=path, expected="a folder with image files, at any depth")
    folders = _split_folders(root)
    listed = {split: sorted(image_files(folder)) for split, folder in folders.items()}
    classes = sorted({label for names in listed.values() for name in names if (label := _class(name))})
    parts = {
        split: Part(
            [printable(name) for name in names], [_class(name) for name in names], Files(str(folder), names)
        )
        for (split, folder), names in zip(folders.items(), listed.values(), strict=True)
    }
    return assemble("image", parts, [printable(name) for name in classes], path)


def _split_folders(root: Path) -> dict[str, Path]:
    """Folders by split.

    A lone `train` (beside `bus` and `car`) that holds images and no folders of them is a class, not a split.
    """
    children = sorted(child for child in root.iterdir() if child.is_dir() and not child.name.startswith("."))
    named = [child for child in children if child.name.lower() in _SPLIT_FOLDERS]
    others = [child for child in children if child not in named and match(child)]
    if not named or (len(named) == 1 and others and not any("/" in name for name in image_files(named[0]))):
        return {DEFAULT: root}
    splits: dict[str, Path] = {}
    for child in [*named, *others]:
        split = (split_name(child.name) if child in named else None) or child.name
        if split in splits:
            got = f"{splits[split].name}/ and {child.name}/ in {root}"
            raise SourceError(
                f"two folders are split `{split}`", got=got, hint="rename one, or pass one of the two"
            )
        splits[split] = child
    return splits


def _class(name: str) -> str | None:
    folder, slash, _ = name.partition("/")
    return printable(folder) if slash else None
