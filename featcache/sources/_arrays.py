"""Sort named arrays (of .npz and HDF5 files) into images and labels of splits, by their names.

A name consists of words joined by `_`, `-` or `/`. One word is the role: `x`, `image`, `images`, `data`, or
`y`, `label`, `labels`, `target`, `targets`. Another may be the split: `x_train`, `train/images`,
`labels-test`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from featcache.config import did_you_mean
from featcache.errors import SourceError
from featcache.sources._files import EMBEDDINGS, printable
from featcache.sources._origin import Origin
from featcache.sources._samples import Part, Reader, assemble
from featcache.sources._splits import split_name, split_of
from featcache.sources.base import Source

_IMAGES = frozenset(["images", "image", "data", "x"])
_LABELS = frozenset(["labels", "label", "targets", "target", "y"])
_CLASSES = frozenset(["class_names", "classes"])
_CHANNELS = (1, 3, 4)


class ArrayLike(Protocol):
    """The common interface of NumPy arrays and HDF5 datasets."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> Any: ...

    def __getitem__(self, key: Any) -> Any: ...


class ReaderOf(Protocol):
    """Makes the reader of a named array."""

    def __call__(self, name: str) -> Reader: ...


def assemble_arrays(
    file: Path, arrays: Mapping[str, ArrayLike], label_column: str | None, reader_of: ReaderOf
) -> dict[str, Source]:
    """Return the splits in `arrays`; labels are read, images are not.

    Ids are `file:row`, or `file:split:row` if the file holds several splits. Raise SourceError for missing
    images, for shapes or pixel types that `_image.from_array` does not take, and for labels that do not fit.
    """
    roles = {name: _role(name, label_column, split_of(file)) for name in arrays}
    images = _by_split(
        file, "images", {name: split for name, (role, split) in roles.items() if role in _IMAGES}
    )
    wanted = {label_column.lower()} if label_column else _LABELS
    labels = _by_split(
        file, "labels", {name: split for name, (role, split) in roles.items() if role in wanted}
    )
    if not images:
        expected = f"an array called {', '.join(sorted(_IMAGES))}"
        raise SourceError(
            f"{file.name} has no images", got=_listed(arrays), expected=expected, hint=EMBEDDINGS
        )
    if label_column and not labels:
        hint = did_you_mean(label_column, arrays)
        raise SourceError(f"{file.name} has no labels `{label_column}`", got=_listed(arrays), hint=hint)
    parts = {}
    for split, name in images.items():
        _check_images(name, arrays[name], file)
        rows = arrays[name].shape[0]
        prefix = file.name if len(images) == 1 else f"{file.name}:{split}"
        label = labels.get(split)
        parts[split] = Part(
            [printable(f"{prefix}:{row}") for row in range(rows)],
            [None] * rows if label is None else _read_labels(label, arrays[label], rows, file),
            reader_of(name),
        )
    classes = next((_read_names(arrays[name]) for name in arrays if name.lower() in _CLASSES), None)
    origin = Origin("array", ", ".join(labels.values()) or None, tuple(arrays))
    return assemble("image", parts, classes, str(file), origin)


def _role(name: str, label_column: str | None, default: str) -> tuple[str, str]:
    """Return the name without the word for the split, and the split."""
    words = re.split(r"[/_-]", name.strip("/").lower())
    split = next((found for word in words if (found := split_name(word))), default)
    role = name if name == label_column else "_".join(word for word in words if split_name(word) is None)
    return role.lower(), split


def _by_split(file: Path, role: str, split_of_name: Mapping[str, str]) -> dict[str, str]:
    """Return the array name of each split; raise SourceError if two arrays have the same split."""
    found: dict[str, str] = {}
    for name, split in split_of_name.items():
        if split in found:
            got = f"`{found[split]}` and `{name}` in {file.name}"
            raise SourceError(
                f"two arrays could be the {role} of split `{split}`", got=got, hint="rename one"
            )
        found[split] = name
    return found


def _check_images(name: str, images: ArrayLike, file: Path) -> None:
    """Raise SourceError if the shape or pixel type is not that of images."""
    shape, kind = tuple(images.shape), str(images.dtype)
    if len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] not in _CHANNELS):
        first = len(shape) == 4 and shape[1] in _CHANNELS
        raise SourceError(
            f"`{name}` in {file.name} does not hold images",
            got=f"shape {shape}",
            expected="(N, H, W) or (N, H, W, C) with C of 1, 3 or 4",
            hint="move the channels last: images.transpose(0, 2, 3, 1)" if first else EMBEDDINGS,
        )
    whole = images.dtype.kind in "iu"
    if not (kind in ("bool", "uint8", "uint16") or images.dtype.kind == "f"):
        raise SourceError(
            f"`{name}` in {file.name} has an unsupported pixel type",
            got=kind,
            expected="uint8, uint16, bool, or floats from 0 to 1",
            hint="images.astype('uint8') keeps the values if all are from 0 to 255" if whole else None,
        )


def _read_labels(name: str, labels: ArrayLike, rows: int, file: Path) -> list[object]:
    """Read labels (rows,), with any number of axes of size 1; raise SourceError for another shape."""
    shape = tuple(labels.shape)
    if shape[:1] != (rows,) or any(size != 1 for size in shape[1:]):
        raise SourceError(
            f"`{name}` in {file.name} does not fit the images", got=f"shape {shape}", expected=f"({rows},)"
        )
    values: list[object] = labels[:].reshape(-1).tolist()
    names = _enumerated(labels.dtype)
    return [names.get(value, value) for value in values] if names else values


def _enumerated(dtype: Any) -> dict[object, str]:
    """Return the names of the numbers of an HDF5 enumeration."""
    named: dict[str, int] = (dtype.metadata or {}).get("enum") or {}
    return {number: name for name, number in named.items()}


def _read_names(names: ArrayLike) -> list[str]:
    """Read class names, which may be stored as bytes."""
    values = names[:].tolist()
    return [str(name, errors="backslashreplace") if isinstance(name, bytes) else str(name) for name in values]


def _listed(arrays: Mapping[str, ArrayLike]) -> str:
    """List names and shapes for an error message."""
    return ", ".join(f"{name} {tuple(array.shape)}" for name, array in arrays.items()) or "no arrays"
