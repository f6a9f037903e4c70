"""The contract of a source: samples by index in a stable order, with stable ids, labels and a digest."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

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


class Digests(NamedTuple):
    """Identity of the samples of a source."""

    content: str
    """SHA-256 (hex) of the ids and the content of all samples, in order."""
    first: str
    """The same of the first samples only."""
    samples: NDArray[np.uint64]
    """(N,) BLAKE2b of the content of each sample, in 64 bits; 0 for one that cannot be read."""


def digests_of(source: Source, first: int = 0) -> Digests:
    """Return the digests of all samples and of the `first` ones.

    Samples are read one at a time. If `content` raises SampleError, the sample counts as absent; repairing it
    changes the digest.
    """
    whole, part = (hashlib.sha256(_head(source, rows)) for rows in (len(source), first))
    samples = np.zeros(len(source), np.uint64)
    for index, (key, data) in enumerate(_contents(source)):
        packed = struct.pack("<2q", len(key), -1 if data is None else len(data)) + key
        for sha in (whole, part)[: 2 if index < first else 1]:
            sha.update(packed)
            sha.update(data or b"")
        if data is not None:
            samples[index] = int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
    return Digests(whole.hexdigest(), part.hexdigest(), samples)


def digest_samples(source: Source, *, labels: bool = False) -> str:
    """Return the digest of all samples; with `labels`, also of labels and class names, as in format 1."""
    if not labels:
        return digests_of(source).content
    sha = hashlib.sha256(_head(source, len(source), source.class_names))
    for label, (key, data) in zip(source.labels, _contents(source), strict=True):
        sha.update(struct.pack("<3q", len(key), label, -1 if data is None else len(data)))
        sha.update(key)
        sha.update(data or b"")
    return sha.hexdigest()


def _head(source: Source, rows: int, *more: object) -> bytes:
    return json.dumps([source.modality, rows, *more]).encode()


def _contents(source: Source) -> Iterator[tuple[bytes, bytes | None]]:
    """Yield the id and the content of each sample; None for one that cannot be read."""
    for index, name in enumerate(source.ids):
        try:
            data: bytes | None = source.content(index)
        except SampleError:
            data = None
        yield name.encode(), data


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


def in_order(source: Source, ids: Sequence[str]) -> Source:
    """Return the samples of a source that have these ids first, in this order, and then all others.

    A sample that the source has no more cannot be read, and has no label. Returns `source` itself if its
    order is this one.
    """
    if list(source.ids[: len(ids)]) == list(ids):
        return source
    place = {name: row for row, name in enumerate(source.ids)}
    known = set(ids)
    new = [row for row, name in enumerate(source.ids) if name not in known]
    return _Ordered(source, [*(place.get(name) for name in ids), *new], ids)


def gone_of(source: Source) -> frozenset[int]:
    """Return the rows, after `in_order`, of samples that the source has no more."""
    found: frozenset[int] = getattr(source, "gone", frozenset())
    return found


GONE = "removed from the source"
"""Reason of a row whose sample the source has no more."""


class _Ordered:
    """The samples of a source in another order; None in place of one that is gone."""

    def __init__(self, source: Source, rows: Sequence[int | None], ids: Sequence[str]) -> None:
        self.modality: Modality = source.modality
        self.class_names = source.class_names
        self.ids: Sequence[str] = [*ids, *(source.ids[row] for row in rows[len(ids) :] if row is not None)]
        self.labels = np.array([UNLABELLED if row is None else source.labels[row] for row in rows], np.int64)
        self.gone = frozenset(row for row, place in enumerate(rows) if place is None)
        self._source, self._rows = source, rows

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Any:
        return self._source[self._row(index)]

    def content(self, index: int) -> bytes:
        """Return the bytes of a sample as the source gives them."""
        return self._source.content(self._row(index))

    def _row(self, index: int) -> int:
        row = self._rows[range(len(self))[index]]
        if row is None:
            raise SampleError(GONE, got=self.ids[index])
        return row
