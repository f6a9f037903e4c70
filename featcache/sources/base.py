"""What every source gives: samples by index in a stable order, with stable ids, labels and a digest of their
content.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from featcache.errors import SampleError, SourceError
from featcache.specs import Modality

UNLABELLED = -1


class Source(Protocol):
    """One split of a data set: random access, stable order, picklable (workers reopen their own file
    handles).

    `ids` and `labels` are known without reading any sample's content, so that a row exists for every sample
    before the first one is decoded.
    """

    modality: Modality
    class_names: tuple[str, ...]
    """Names by label; empty when nothing is labelled."""
    ids: Sequence[str]
    """(N,) unique and stable: what ties a cache row to its sample."""
    labels: NDArray[np.int64]
    """(N,) class index, or UNLABELLED (-1)."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any:
        """The sample: an RGB `PIL.Image.Image`, or a `str`. Raises SampleError when it cannot be read."""

    def digest(self) -> str:
        """SHA-256 (hex) over the ids, labels, class names and content of every sample, in order."""


def digest_samples(source: Source, content: Callable[[int], bytes]) -> str:
    """SHA-256 (hex) over ids, labels, class names and `content(index)` of every sample, one at a time.

    A sample whose content raises SampleError counts as absent, so that mending it changes the digest.
    """
    head = json.dumps([source.modality, len(source), source.class_names])
    sha = hashlib.sha256(head.encode())
    for index, name in enumerate(source.ids):
        try:
            data, size = content(index), None
        except SampleError:
            data, size = b"", -1
        key = name.encode()
        sha.update(struct.pack("<qqq", len(key), source.labels[index], len(data) if size is None else size))
        sha.update(key)
        sha.update(data)
    return sha.hexdigest()


def limit(source: Source, n: int) -> Source:
    """The first `n` samples of `source`, or `source` itself where it has no more; raises SourceError for n <
    1.

    The digest covers the decoded samples that are left, so it costs what `n` samples cost, not the whole
    source.
    """
    if n < 1:
        raise SourceError("a limit must leave at least one sample", got=n, expected="1 or more")
    return source if n >= len(source) else _First(source, n)


class _First:
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

    def digest(self) -> str:
        return digest_samples(self, lambda index: _decoded_bytes(self[index]))


def _decoded_bytes(sample: Any) -> bytes:
    if isinstance(sample, str):
        return sample.encode("utf-8", "surrogatepass")
    return struct.pack("<qq", *sample.size) + bytes(sample.tobytes())
