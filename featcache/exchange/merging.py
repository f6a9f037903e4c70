"""Plan the merge of several caches into one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from featcache.cache.identity import require_same
from featcache.cache.labels import renumbered
from featcache.cache.reader import CacheReader
from featcache.cache.spec import Shapes
from featcache.errors import CacheError
from featcache.exchange.pieces import Form, Piece, class_text_of, joined_split, labels_of
from featcache.exchange.plan import ImportedSplit, ImportPlan

_TOGETHER = "merge caches of the same model and options only"


def plan_merge(caches: Sequence[CacheReader]) -> ImportPlan:
    """Plan the merge of caches: the rows of each split one cache after the other, classes united by name.

    Raises CacheMismatch if they are not of the same model and layout, and CacheError if a sample is in two of
    them, or one is not complete.
    """
    first, *others = caches
    plain = _without_std(first.shapes)
    for other in others:
        place = other.storage
        require_same(place, other.spec, first.spec, by=f"in {first.storage}", hint=_TOGETHER)
        require_same(place, _without_std(other.shapes), plain, by=f"in {first.storage}", hint=_TOGETHER)
    tables = [cache.labels for cache in caches]
    names = tuple(dict.fromkeys(name for table in tables for name in table.class_names))
    form = Form(first.spec, first.shapes, as_stored=all(cache.shapes == first.shapes for cache in caches))
    splits: dict[str, ImportedSplit] = {}
    for name in dict.fromkeys(name for cache in caches for name in cache.split_names):
        pieces = [
            Piece(cache, split := cache.split(name), np.arange(split.rows))
            for cache in caches
            if name in cache.described
        ]
        _require_disjoint(pieces)
        for piece in pieces:
            piece.split.check()
        own = {id(cache): table for cache, table in zip(caches, tables, strict=True)}
        labels = [
            renumbered(labels_of(piece, own[id(piece.cache)]), own[id(piece.cache)].class_names, names)
            for piece in pieces
        ]
        splits[name] = joined_split(pieces, form, np.concatenate(labels))
    made = [{**cache.provenance, "fingerprint": cache.fingerprint} for cache in caches]
    return ImportPlan(
        spec=form.spec,
        shapes=form.shapes,
        class_names=names,
        splits=splits,
        provenance={"merged": made},
        keys={},
        longest=form.shapes.layers[0].tokens,
        class_text=class_text_of(caches, names),
        chosen=sum(table.chosen for table in tables),
    )


def _without_std(shapes: Shapes) -> Shapes:
    return shapes.with_std({array.layer: () for array in shapes.layers})


def _require_disjoint(pieces: Sequence[Piece]) -> None:
    seen: dict[str, Piece] = {}
    for piece in pieces:
        for name in piece.split.ids:
            if name in seen:
                raise CacheError(
                    f"the sample `{name}` is in two of the caches",
                    got=f"{seen[name].split.storage} and {piece.split.storage}",
                    expected="samples with ids of their own",
                    hint="leave one out with `featcache copy`, or extract both sources as one",
                )
        seen |= dict.fromkeys(piece.split.ids, piece)
