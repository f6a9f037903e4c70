"""The options of an import, once: for Python and for the command line."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field

from featcache.config import Config, parse_overrides
from featcache.extraction.options import Layers
from featcache.specs import StoredType, TokenChoice, ValueType


class ImportOptions(Config):
    """Options of an import; the descriptions are the help of `featcache import`.

    >>> ImportOptions.of({"pooled": "emb"}).keys()
    {'pooled': 'emb'}
    """

    pooled: str | None = Field(None, description="The array of embeddings (N, D) [default: detected].")
    tokens: str | None = Field(
        None, description="The array of tokens (N, T, D), or (T, D) in a file for each sample."
    )
    mask: str | None = Field(None, description="The array (N, T) that is true for real tokens.")
    ids: str | None = Field(None, description="The array of sample ids [default: by name, else file:row].")
    labels: str | None = Field(None, description="The array of class names or indices [default: by name].")
    split: str | None = Field(
        None, description="The array of split names [default: names of files or arrays]."
    )
    model: str | None = Field(
        None, description="What made the embeddings, in your words; caches with the same text fit together."
    )
    max_tokens: Annotated[int, Field(gt=0, le=10**6)] | None = Field(
        None, description="Keep at most N tokens of a sample, evenly spaced [default: all]."
    )
    dtype: ValueType | None = Field(None, description="The stored type [default: that of the arrays].")

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Validate options; raises ConfigError that names the argument, or the flag, that does not fit."""
        return cls.parse(values, where=None)

    def keys(self) -> dict[Any, str]:
        """Return the arrays that were named, by role."""
        roles = ("pooled", "tokens", "mask", "ids", "labels", "split")
        return {role: key for role in roles if (key := getattr(self, role)) is not None}


def _counts(value: Any) -> Any:
    """Read `weak=1,strong=0`."""
    if not isinstance(value, str):
        return value
    counts = parse_overrides(value.split(","))
    if not counts.keys() <= {*ViewCounts.model_fields}:
        raise ValueError("weak=N,strong=N, or one of them")
    return counts


def _spelled(value: Any) -> Any:
    """Spell a number or a path."""
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _names(value: Any) -> Any:
    """Read `cat|dog`."""
    return tuple(value.split("|")) if isinstance(value, str) else value


class ViewCounts(Config):
    """Numbers of views to keep."""

    weak: Annotated[int, Field(ge=0)] | None = None
    strong: Annotated[int, Field(ge=0)] | None = None


class CopyOptions(Config):
    """Options of a copy; the descriptions are the help of `featcache copy`.

    >>> CopyOptions.of({"views": "weak=1", "classes": "cat|dog", "rows": 100}).classes
    ('cat', 'dog')
    """

    split: str | None = Field(None, description="One split of the cache [default: all].")
    rows: Annotated[str, Field(coerce_numbers_to_str=True), BeforeValidator(_spelled)] | None = Field(
        None, description="The first N samples of each split, or a FILE with a sample id on each line."
    )
    classes: Annotated[tuple[str, ...], BeforeValidator(_names)] | None = Field(
        None, description="Only samples with one of these labels, for example 'cat|dog'."
    )
    views: Annotated[ViewCounts, BeforeValidator(_counts)] | None = Field(
        None, description="How many views to keep, for example weak=1,strong=0 [default: all]."
    )
    layers: Layers | None = Field(None, description="Layers to keep, for example -1 [default: all].")
    tokens: TokenChoice | None = Field(
        None, description="cls, patch, pooled or grid:HxW, of the tokens there [default: all of them]."
    )
    dtype: StoredType | None = Field(None, description="The stored type [default: that of the cache].")

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Validate options; raises ConfigError that names the argument, or the flag, that does not fit."""
        return cls.parse(values, where=None)
