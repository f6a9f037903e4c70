"""Plan the copy of a cache, or of a part of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from featcache.cache.labels import LabelTable, renumbered
from featcache.cache.quantise import Quantised, RunningRms
from featcache.cache.reader import CacheReader, SplitReader
from featcache.cache.spec import LayoutSpec, Shapes, TokenArray
from featcache.config import did_you_mean
from featcache.errors import ConfigError, option
from featcache.exchange.options import CopyOptions
from featcache.exchange.pieces import Form, Piece, Reader, class_text_of, joined_split, labels_of, selected
from featcache.exchange.plan import ImportPlan
from featcache.extraction.int8_scale import PILOT_ROWS


def plan_copy(cache: CacheReader, options: CopyOptions) -> ImportPlan:
    """Plan the copy of a cache.

    Raises ConfigError if it does not have what the options name, and CacheError if it is not complete.
    """
    labels = cache.labels
    names = _chosen_classes(labels, options)
    pieces = {
        name: Piece(cache, split := cache.split(name), _rows(split, labels, names, options))
        for name in _splits(cache, options)
    }
    pieces = {name: piece for name, piece in pieces.items() if len(piece.rows)}
    if not pieces:
        raise ConfigError("no sample is left to copy", got="0 rows")
    for piece in pieces.values():
        piece.split.check()
    form = _form(pieces, cache, options)
    splits = {
        name: joined_split([piece], form, renumbered(labels_of(piece, labels), labels.class_names, names))
        for name, piece in pieces.items()
    }
    whole = form.shapes == cache.shapes and form.spec == cache.spec
    said = options.model_dump(mode="json", exclude_defaults=True)
    made = {key: value for key, value in cache.provenance.items() if key not in ("versions", "date")}
    copied = {"fingerprint": cache.fingerprint, "options": said}
    return ImportPlan(
        spec=form.spec,
        shapes=form.shapes,
        class_names=names,
        splits=splits,
        provenance={**made, "copied": copied},
        keys={},
        longest=form.shapes.layers[0].tokens,
        class_text=class_text_of([cache], names),
        chosen=labels.chosen,
        layout=_layout(pieces) if whole else None,
    )


def _splits(cache: CacheReader, options: CopyOptions) -> Sequence[str]:
    if options.split is None:
        return cache.split_names
    if options.split not in cache.described:
        hint = did_you_mean(options.split, cache.described)
        raise ConfigError(f"{cache.storage} has no such split", got=options.split, hint=hint)
    return (options.split,)


def _chosen_classes(labels: LabelTable, options: CopyOptions) -> tuple[str, ...]:
    if options.classes is None:
        return labels.class_names
    for name in options.classes:
        if name not in labels.class_names:
            raise ConfigError("no such class", got=name, hint=did_you_mean(name, labels.class_names))
    return tuple(name for name in labels.class_names if name in options.classes)


def _rows(
    split: SplitReader, labels: LabelTable, names: tuple[str, ...], options: CopyOptions
) -> NDArray[np.int64]:
    """Return the rows of a split to copy, in their order."""
    keep = np.ones(split.rows, np.bool_)
    if options.classes is not None:
        own = labels.of(split.name, split.rows)
        keep &= renumbered(own, labels.class_names, names) >= 0
    if options.rows is None:
        return np.flatnonzero(keep)
    if options.rows.isdecimal():
        return np.flatnonzero(keep)[: int(options.rows)]
    wanted = _ids(Path(options.rows))
    return np.flatnonzero(keep & np.array([name in wanted for name in split.ids], np.bool_))


def _ids(file: Path) -> set[str]:
    try:
        return {line for line in file.read_text(encoding="utf-8").splitlines() if line}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{option('rows')} is neither a number nor a file of sample ids", got=f"{file}: {error}"
        ) from None


def _form(pieces: Mapping[str, Piece], cache: CacheReader, options: CopyOptions) -> Form:
    layers = options.layers or cache.spec.layers
    if unknown := [layer for layer in layers if layer not in cache.spec.layers]:
        expected = "|".join(map(str, cache.spec.layers))
        raise ConfigError(f"{cache.storage} has no such layer", got=unknown[0], expected=expected)
    views = _views(cache, options)
    choice = None if options.tokens in (None, "all", cache.spec.tokens) else options.tokens
    kept = {array.layer: array for array in cache.shapes.layers}
    arrays = tuple(_chosen(kept[layer], cache.shapes, choice) for layer in layers)
    dtype = options.dtype or cache.spec.dtype
    changed = {"layers": layers, "views": views, "tokens": choice or cache.spec.tokens, "dtype": dtype}
    spec = cache.spec.model_copy(update=changed)
    same_std = choice is None and cache.spec.dtype == dtype == "int8"
    arrays = tuple(
        array.model_copy(update={"std": kept[array.layer].std if same_std else ()}) for array in arrays
    )
    shapes = Shapes(layers=arrays, pooled=cache.shapes.pooled, mask=cache.shapes.mask and choice is None)
    form = Form(spec, shapes, choice, as_stored=same_std)
    if dtype != "int8" or same_std:
        return form
    return Form(
        spec,
        shapes.with_std(_measured(pieces.get("train") or next(iter(pieces.values())), form)),
        choice,
        as_stored=False,
    )


def _views(cache: CacheReader, options: CopyOptions) -> Any:
    """Return the views of the cache with smaller numbers."""
    there = cache.spec.views
    asked = {name: count for name, count in options.views or () if count is not None}
    for name, count in asked.items():
        if count > getattr(there, name):
            what = f"{cache.storage} has fewer {name} views"
            raise ConfigError(what, got=f"{name}={count}", expected=f"at most {getattr(there, name)}")
    return there.model_copy(update=asked)


def _chosen(array: TokenArray, shapes: Shapes, choice: str | None) -> TokenArray:
    """Return the geometry of a layer after tokens are chosen."""
    if choice is None:
        return array
    tokens = torch.zeros(1, array.tokens, array.dim)
    encoded = selected(array, tokens, torch.zeros(1, shapes.pooled), choice)
    (_, count, dim), geometry = encoded.tokens[array.layer].shape, encoded.geometry[array.layer]
    return TokenArray(layer=array.layer, tokens=count, dim=dim, prefix=geometry.prefix, grid=geometry.grid)


def _measured(piece: Piece, form: Form) -> dict[int, list[float]]:
    """Measure the scales of int8 tokens on the first samples, in the `eval` view."""
    rms = {array.layer: RunningRms(array.dim) for array in form.shapes.layers}
    read = Reader([piece], form)
    rows = min(PILOT_ROWS, len(piece.rows))
    for start in range(0, rows, form.step):
        batch = read(0, start, min(start + form.step, rows))
        for layer, tokens in batch.tokens.items():
            assert not isinstance(tokens, Quantised)
            real = tokens.reshape(-1, tokens.shape[-1]) if batch.mask is None else tokens[batch.mask]
            rms[layer].add(real)
    return {layer: spread.std().tolist() for layer, spread in rms.items()}


def _layout(pieces: Mapping[str, Piece]) -> LayoutSpec:
    """Return the rows in a shard of the cache, so that a copy has the same files."""
    return LayoutSpec(shard_size=str(next(iter(pieces.values())).split.block))
