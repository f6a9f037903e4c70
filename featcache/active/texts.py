"""Read the texts of samples from the source of a cache, for a person who is to label them."""

from __future__ import annotations

from collections.abc import Sequence

from featcache.cache.reader import CacheReader
from featcache.errors import FeatcacheError
from featcache.sources import open_source

LONGEST = 500
"""Characters of a text in the table."""


def texts_of(cache: CacheReader, split: str, ids: Sequence[str]) -> list[str | None]:
    """Return the texts of samples on one line each; None for images, or if the source is not at hand.

    They are found by their ids, so that a source which has grown since still serves.
    """
    nothing: list[str | None] = [None] * len(ids)
    source = cache.provenance.get("source")
    if cache.spec.encoder.modality != "text" or not isinstance(source, str) or "://" in source:
        return nothing
    try:
        samples = open_source(source)[split]
        row = {name: index for index, name in enumerate(samples.ids)}
        return [_line(samples[row[name]]) if name in row else None for name in ids]
    except (FeatcacheError, KeyError):
        return nothing


def _line(text: object) -> str:
    return " ".join(str(text).split())[:LONGEST]
