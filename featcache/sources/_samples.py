"""The implementation shared by all sources: ids and labels in memory, content read row by row."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from featcache.errors import SampleError, SourceError, option
from featcache.sources._files import Files
from featcache.sources._labels import encode, merged_forms
from featcache.sources._origin import Origin
from featcache.sources._splits import in_order
from featcache.sources.base import Source
from featcache.specs import Modality

Content = bytes | str | NDArray[Any]
"""An encoded image, a text, or an image as an array (H, W[, C])."""

Reader = Callable[[int], Content]
"""Reads content by row; picklable. Raises SampleError without the name of the sample."""

T = TypeVar("T")


class Samples:
    """One split, as a `Source`; the digest covers content as stored (encoded bytes, text, raw pixels)."""

    def __init__(
        self,
        modality: Modality,
        ids: Sequence[str],
        labels: NDArray[np.int64],
        class_names: tuple[str, ...],
        reader: Reader,
        origin: Origin | None = None,
    ) -> None:
        self.modality: Modality = modality
        self.ids: Sequence[str] = ids
        self.labels = labels
        self.class_names = class_names
        self.origin = origin
        self._reader = reader

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Any:
        row = range(len(self))[index]
        try:
            content = self._reader(row)
            return content if isinstance(content, str) else _image(content)
        except SampleError as error:
            name = self.ids[row]
            got = name if error.got is None else f"{name}: {error.got}"
            raise SampleError(error.what, got=got, expected=error.expected, hint=error.hint) from None
        except MemoryError:
            # No fault of the sample: its row may not be stored as failed.
            raise SourceError(
                "memory does not suffice to read a sample",
                got=self.ids[row],
                hint=f"rerun with a smaller {option('num_workers')} or {option('batch_size')}; it continues",
            ) from None

    def file(self, index: int) -> Path | None:
        """Return the file of a sample; None if samples are not files of their own."""
        return self._reader.path(range(len(self))[index]) if isinstance(self._reader, Files) else None

    def content(self, index: int) -> bytes:
        """Return the sample as stored: encoded bytes, text, or raw pixels."""
        return _stored_bytes(self._reader(range(len(self))[index]))


@dataclass(frozen=True)
class Part:
    """One split before its labels are numbered: ids, labels as found (None for no label), and a reader."""

    ids: Sequence[str]
    labels: Sequence[object]
    reader: Reader


def assemble(
    modality: Modality,
    parts: Mapping[str, Part],
    class_names: Sequence[str] | None,
    path: str,
    origin: Origin | None = None,
) -> dict[str, Source]:
    """Return the splits as sources, with labels numbered over all of them together.

    `path` names the source in messages, and `origin` tells where the labels come from. Raise SourceError for
    a split without samples, an id that occurs twice, or a label without a class.
    """
    if not parts:
        raise SourceError("the source holds no samples", got=path, hint="check the path and the format")
    for split, part in parts.items():
        if not part.ids:
            raise SourceError(
                f"split `{split}` holds no samples", got=f"0 rows in {path}", expected="1 or more"
            )
        require_unique(split, part.ids)
    labels, names = encode({split: (part.ids, part.labels) for split, part in parts.items()}, class_names)
    origin = _with_merged(origin, parts)
    splits: dict[str, Source] = {
        split: Samples(modality, part.ids, labels[split], names, part.reader, origin)
        for split, part in parts.items()
    }
    return in_order(splits)


def _with_merged(origin: Origin | None, parts: Mapping[str, Part]) -> Origin | None:
    """Note the class names that are written in several ways."""
    merged = merged_forms(value for part in parts.values() for value in part.labels)
    if origin is None or not merged:
        return origin
    ways = "written in several Unicode forms, or with other space around them"
    note = f"{ways}, and taken as one class each: {', '.join(merged)}"
    return replace(origin, notes=(*origin.notes, note))


class Lazy(Generic[T]):
    """The result of `make(*args)`, called on first use, once in each process.

    The result is never pickled, and a forked process makes its own.
    """

    def __init__(self, make: Callable[..., T], *args: object) -> None:
        self._make, self._args = make, args
        self._made: tuple[int, T] | None = None

    def __call__(self) -> T:
        # No lock, as a fork could copy a held one. Two threads may both make a result; the later one stays.
        made = self._made
        if made is None or made[0] != os.getpid():
            made = self._made = (os.getpid(), self._make(*self._args))
        return made[1]

    def __reduce__(self) -> tuple[object, ...]:
        return Lazy, (self._make, *self._args)


def require_unique(split: str, ids: Sequence[str], hint: str | None = None) -> None:
    """Raise SourceError for an id that occurs twice."""
    if len(set(ids)) == len(ids):
        return
    first: dict[str, int] = {}
    for row, name in enumerate(ids):
        if name in first:
            raise SourceError(
                f"two samples of split `{split}` have the same id",
                got=f"`{name}` in rows {first[name]} and {row}",
                expected="one row for each id",
                hint=hint,
            )
        first[name] = row


def _image(content: bytes | NDArray[Any]) -> Any:
    """Decode an image; PIL is imported here, on first use."""
    from featcache.sources import _image as image

    return image.decode(content) if isinstance(content, bytes) else image.from_array(content)


def _stored_bytes(content: Content) -> bytes:
    """Return content as bytes for the digest; an array is preceded by its type and shape."""
    if isinstance(content, bytes):
        return content
    if isinstance(content, str):
        return content.encode("utf-8", "surrogatepass")
    return f"{content.dtype.str}{content.shape}".encode() + content.tobytes()
