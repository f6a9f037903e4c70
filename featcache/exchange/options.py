"""The options of an import, once: for Python and for the command line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import Field

from featcache.config import Config
from featcache.specs import ValueType


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
