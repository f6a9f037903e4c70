"""Write a cache beside the one that it replaces, and put it in its place when it is whole.

So there is always one whole cache. The lock is that of the place; its holder calls everything here.
"""

from __future__ import annotations

import json
from collections.abc import Container, Mapping
from contextlib import suppress
from typing import Any, Protocol

from featcache.cache import create
from featcache.cache.identity import require_same
from featcache.cache.labels import LABELS
from featcache.cache.layout import Unit
from featcache.cache.reader import CacheReader, SplitReader, read_attributes
from featcache.cache.spec import CLASS_TEXT, CacheSpec, LayoutSpec, Shapes, SplitSpec
from featcache.cache.storage import Storage, explained
from featcache.cache.zarr_files import METADATA
from featcache.errors import CacheError


class Unfinished(Protocol):
    """A split that is being written."""

    def missing(self) -> list[Unit]:
        """Return the units that are still to write."""


def written_at(place: Storage, overwrite: bool) -> Storage:
    """Return where a cache is written: beside its place with `overwrite`, else in it."""
    return place.beside() if overwrite else place


def begun(
    storage: Storage, spec: CacheSpec, shapes: Shapes, provenance: Mapping[str, Any]
) -> CacheReader | None:
    """Return the cache that a killed overwrite has begun, if this one would make the same.

    Delete anything else that it left. Labels and class texts are always written again.
    """
    if create.is_cache(storage):
        with suppress(CacheError):
            if _content(read_attributes(storage)) == _content(create.described(spec, shapes, provenance)):
                cache = CacheReader.open(storage)
                for name in cache.split_names:
                    cache.split(name)  # raises if it is damaged
                storage.delete(LABELS)
                storage.delete(CLASS_TEXT)
                return cache
    storage.delete("")
    return None


def continues(cache: CacheReader, existing: SplitReader, split: SplitSpec, anew: LayoutSpec | None) -> bool:
    """Return True if an existing split is the one that is asked for.

    In an overwrite, `anew` is the layout, and another split is written anew. Otherwise it is None, and
    another split raises CacheMismatch.
    """
    if anew is not None:
        block = create.block_rows(cache.shapes, cache.spec, anew)
        return existing.spec == split and existing.block == block
    require_same(existing.storage, existing.spec, split)
    return True


def finish(place: Storage, splits: Mapping[str, Unfinished], *, overwrite: bool) -> None:
    """End a writing: take the place of the old cache if all splits are whole, or tidy what lies beside."""
    if not overwrite:
        discard(place)
    elif not any(split.missing() for split in splits.values()):
        take_place(place, splits)


def take_place(place: Storage, splits: Container[str]) -> None:
    """Put the whole cache beside a place there, with these splits only, and delete the old one."""
    beside = place.beside()
    with explained(beside):
        for name in beside.names():
            if name not in (METADATA, LABELS, CLASS_TEXT) and name not in splits:
                beside.delete(name)
    try:
        place.replace()
    except OSError as error:
        raise CacheError(
            f"the new cache is whole, but cannot take the place of {place}",
            got=f"{error.strerror} ({error.filename})",
            hint=f"it is {beside}: move it there, or repeat the command",
        ) from error
    with explained(place, "the old cache"):
        place.tidy(create.is_own)


def discard(place: Storage) -> None:
    """Delete what a killed overwrite has begun beside a cache that has been written since."""
    with suppress(CacheError):  # something else is left as it is
        beside = place.beside()
        create.is_cache(beside)
        with explained(beside):
            beside.delete("")


def _content(described: Mapping[str, Any] | None) -> Any:
    """Return the description of a cache as JSON has it, without its date."""
    described = described or {}
    made = {key: value for key, value in described.get("provenance", {}).items() if key != "date"}
    return json.loads(json.dumps({**described, "provenance": made}))
