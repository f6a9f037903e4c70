"""The contract of a source: samples by index in a stable order, with stable ids, labels and a digest."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from featcache.errors import SampleError, SourceError
from featcache.specs import Modality

UNLABELLED = -1


class Source(Protocol):
    """One split of a data set: random access, stable order, picklable (each worker opens its own files).

    `ids` and `labels` are known without reading the content of a sample. A cache therefore has a row for
    every sample before the first one is decoded.
    """

    modality: Modality
    class_names: tuple[str, ...]
    """Class names in the order of the labels; empty if nothing is labelled."""
    ids: Sequence[str]
    """(N,) unique and stable; they connect a cache row to its sample."""
    labels: NDArray[np.int64]
    """(N,) class indices, UNLABELLED (-1) for samples without a label."""

    def __len__(self) -> int:
        """Return N, the number of samples."""

    def __getitem__(self, index: int) -> Any:
        """Return a sample, an RGB `PIL.Image.Image` or a `str`; raise SampleError if it cannot be read."""

    def content(self, index: int) -> bytes:
        """Return the bytes of a sample as stored; raise SampleError if it cannot be read."""


def digest_samples(source: Source, *, labels: bool = False) -> str:
    """Return the SHA-256 (hex) of the ids and the content of all samples, in order.

    Samples are read one at a time. If `content` raises SampleError, the sample counts as absent; repairing it
    changes the digest. With `labels`, it also covers labels and class names, as in caches of format 1.
    """
    head = [source.modality, len(source), *([source.class_names] if labels else [])]
    sha = hashlib.sha256(json.dumps(head).encode())
    for index, name in enumerate(source.ids):
        try:
            data, size = source.content(index), None
        except SampleError:
            data, size = b"", -1
        key = name.encode()
        label = [source.labels[index]] if labels else []
        sizes = [len(key), *label, len(data) if size is None else size]
        sha.update(struct.pack(f"<{len(sizes)}q", *sizes))
        sha.update(key)
        sha.update(data)
    return sha.hexdigest()


def limit(source: Source, n: int) -> Source:
    """Return the first `n` samples of `source`, or `source` itself if it has no more.

    The digest covers the `n` decoded samples only, so it does not read the whole source. Raise SourceError
    for n < 1.
    """
    if n < 1:
        raise SourceError("the limit is too small", got=n, expected="1 or more")
    return source if n >= len(source) else _First(source, n)


class _First:
    """The first samples of a source."""

    def __init__(self, source: Source, n: int) -> None:
        self.modality: Modality = source.modality
        self.class_names = source.class_names
        self.ids: Sequence[str] = source.ids[:n]
        self.labels = source.labels[:n]
        self._source = source

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Any:
        return self._source[range(len(self))[index]]

    def content(self, index: int) -> bytes:
        """Return the decoded sample as bytes."""
        return _decoded_bytes(self[index])


def _decoded_bytes(sample: Any) -> bytes:
    """Return a text as UTF-8, or an image as its size and pixels."""
    if isinstance(sample, str):
        return sample.encode("utf-8", "surrogatepass")
    return struct.pack("<qq", *sample.size) + bytes(sample.tobytes())
