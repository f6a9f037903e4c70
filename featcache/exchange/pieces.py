"""Rows of caches, read to be written to another cache in the same form or in another one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from featcache.cache.codec import from_bfloat16
from featcache.cache.labels import Labels, LabelTable
from featcache.cache.quantise import Quantised, dequantise
from featcache.cache.reader import CacheReader, SplitReader, read_attributes, sample_digests
from featcache.cache.spec import CLASS_TEXT, CacheSpec, Shapes, SplitSpec, TokenArray, array_name, scale_name
from featcache.encoders.base import Encoded, Geometry
from featcache.exchange.cached import opened
from featcache.exchange.plan import Batch, ImportedSplit
from featcache.extraction.tokens import select

_PIECE = 32 << 20
"""Bytes of tokens to read at a time."""


@dataclass(frozen=True)
class Form:
    """Spec, shapes and tokens of a copy."""

    spec: CacheSpec
    shapes: Shapes
    choice: str | None = None
    """Tokens to choose of those there; None for all."""
    as_stored: bool = True
    """True if int8 tokens are taken as they are stored, as all of them have the same `std`."""

    @property
    def step(self) -> int:
        """Rows to read at a time."""
        return max(1, _PIECE // (4 * sum(layer.tokens * layer.dim for layer in self.shapes.layers)))


class Piece(NamedTuple):
    """Some rows of a split of a cache."""

    cache: CacheReader
    split: SplitReader
    rows: NDArray[np.int64]


def joined_split(pieces: Sequence[Piece], form: Form, labels: Labels) -> ImportedSplit:
    """Return a split of the rows of pieces, one piece after the other."""
    ids = [piece.split.ids[row] for piece in pieces for row in piece.rows.tolist()]
    digests = [(sample_digests(piece.split), piece.rows) for piece in pieces]
    known = [found[rows] for found, rows in digests if found is not None]
    return ImportedSplit(
        spec=SplitSpec(content=_content(pieces), rows=len(ids)),
        ids=ids,
        labels=labels,
        read=Reader(pieces, form),
        step=form.step,
        samples=np.concatenate(known) if len(known) == len(pieces) else None,
    )


def _content(pieces: Sequence[Piece]) -> str:
    """Return the digest of the samples: that of the cache, or one of it and the rows."""
    if len(pieces) == 1 and len(pieces[0].rows) == pieces[0].split.rows and pieces[0].split.spec.content:
        return pieces[0].split.spec.content
    told = [
        (piece.split.spec.model_dump(), [piece.split.ids[row] for row in piece.rows.tolist()])
        for piece in pieces
    ]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def labels_of(piece: Piece, table: LabelTable) -> Labels:
    """Return the labels of the rows of a piece."""
    return table.of(piece.split.name, piece.split.rows)[piece.rows]


def class_text_of(
    caches: Sequence[CacheReader], names: tuple[str, ...]
) -> tuple[NDArray[np.float32], list[str], list[str]] | None:
    """Return the embeddings of class names; None unless each cache has those of its own names."""
    found: dict[str, NDArray[np.float32]] = {}
    templates: list[list[str]] = []
    for cache in caches:
        about = read_attributes(cache.storage.below(CLASS_TEXT))
        own = [name for name in cache.class_names if name in names]
        texts = cache.text_of(own)
        if about is None or (texts is None and own):
            return None
        templates.append(list(about["templates"]))
        found |= dict(zip(own, [] if texts is None else texts, strict=True))
    if not names or any(each != templates[0] for each in templates):
        return None
    return np.stack([found[name] for name in names]), list(names), templates[0]


def selected(array: TokenArray, tokens: torch.Tensor, pooled: torch.Tensor, choice: str) -> Encoded:
    """Choose tokens (n, T, D) of a layer, as an extraction does."""
    geometry = {array.layer: Geometry(array.prefix, array.grid)}
    encoded = Encoded(tokens={array.layer: tokens}, mask=None, pooled=pooled, geometry=geometry)
    return select(encoded, choice)


class Reader:
    """Reads rows of pieces, one after the other, in the form of a copy."""

    def __init__(self, pieces: Sequence[Piece], form: Form) -> None:
        self._form = form
        self._pieces = [_PieceReader(piece, form) for piece in pieces]
        self._starts = np.cumsum([0, *(len(piece.rows) for piece in pieces)])

    def __call__(self, view: int, start: int, stop: int) -> Batch:
        found = []
        for piece, first, last in zip(self._pieces, self._starts, self._starts[1:], strict=False):
            low, high = max(start, int(first)), min(stop, int(last))
            if low < high:
                found.append(piece.read(view, low - int(first), high - int(first), int(first)))
        return found[0] if len(found) == 1 else _joined(found)


class _PieceReader:
    def __init__(self, piece: Piece, form: Form) -> None:
        self._piece, self._form = piece, form
        self._views = [piece.split.views.index(name) for name in form.spec.views.names()]
        failed = piece.split.failures()
        self._failed = {at: failed[row] for at, row in enumerate(piece.rows.tolist()) if row in failed}
        self._arrays = {name: opened(piece.split, name) for name in piece.split.arrays}

    def read(self, view: int, start: int, stop: int, first: int) -> Batch:
        rows, own = self._piece.rows[start:stop], self._views[view]
        shapes = self._piece.cache.shapes
        pooled = self._values("pooled", rows, own)
        kept = {array.layer: array for array in shapes.layers}
        tokens = {
            array.layer: self._tokens(kept[array.layer], array, rows, own, pooled)
            for array in self._form.shapes.layers
        }
        mask = self._values("token_mask", rows, own).astype(bool) if self._form.shapes.mask else None
        self._piece.split.checks.finish()
        failed = {first + at: self._failed[at] for at in range(start, stop) if at in self._failed}
        return Batch(tokens, pooled, mask, failed)

    def _tokens(
        self, there: TokenArray, wanted: TokenArray, rows: NDArray[np.int64], view: int, pooled: NDArray[Any]
    ) -> NDArray[Any] | Quantised:
        name = array_name(self._piece.cache.shapes, there.layer)
        if there.std:
            held = Quantised(self._raw(name, rows, view), self._raw(scale_name(name), rows, view))
            if self._form.as_stored and there.std == wanted.std:
                return held
            values = dequantise(held.values, held.scale, np.array(there.std, np.float32))
        else:
            values = self._values(name, rows, view)
        if self._form.choice is None:
            return values
        both = (
            torch.from_numpy(np.asarray(values, np.float32)),
            torch.from_numpy(np.asarray(pooled, np.float32)),
        )
        chosen: NDArray[Any] = selected(there, *both, self._form.choice).tokens[there.layer].numpy()
        return chosen

    def _raw(self, name: str, rows: NDArray[np.int64], view: int) -> NDArray[Any]:
        layout = self._piece.split.array(name).layout
        found: NDArray[Any] = self._arrays[name](len(rows) * layout.row_bytes).gather(rows, view)
        return found

    def _values(self, name: str, rows: NDArray[np.int64], view: int) -> NDArray[Any]:
        found = self._raw(name, rows, view)
        return from_bfloat16(found) if self._piece.split.array(name).layout.bfloat16 else found


def _joined(parts: Sequence[Batch]) -> Batch:
    layers = parts[0].tokens

    def together(layer: int) -> NDArray[Any] | Quantised:
        values = [part.tokens[layer] for part in parts]
        held = [each for each in values if isinstance(each, Quantised)]
        if not held:
            return np.concatenate(values)
        return Quantised(
            np.concatenate([each.values for each in held]), np.concatenate([each.scale for each in held])
        )

    masks = [part.mask for part in parts if part.mask is not None]
    return Batch(
        {layer: together(layer) for layer in layers},
        np.concatenate([part.pooled for part in parts]),
        np.concatenate(masks) if masks else None,
        {row: reason for part in parts for row, reason in part.failed.items()},
    )
