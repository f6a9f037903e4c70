"""Identity of a cache (CacheSpec, SplitSpec, Shapes) and, separately, its layout in bytes (LayoutSpec)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import pydantic

from featcache.cache import layout
from featcache.config import Config
from featcache.specs import Count, EncoderSpec, StoredType, TokenChoice, ValueType, ViewSpec

FORMAT = 3
"""Format of new caches, in which every `zarr.json` and every entry of the ledger is sealed.

Format 2 had no seals. Format 1 also kept class names in the spec, and labels in the digest of a split.
"""
READABLE = (1, 2, 3)
SEALED_SINCE = 3
Size = Annotated[int, pydantic.Field(ge=0, le=10**9)]
Layer = Annotated[int, pydantic.Field(ge=-1000, le=1000)]
CLASS_TEXT = "class_text"
"""Name of the group of class texts, which no split may have."""


class CacheSpec(Config):
    """Everything that changes the meaning of the stored numbers; the digest is the fingerprint."""

    format: int = FORMAT
    encoder: EncoderSpec
    layers: Annotated[tuple[Layer, ...], pydantic.Field(min_length=1, max_length=1000)]
    """Layers counted from the end, -1 the last; the first one is stored as `tokens`."""
    tokens: TokenChoice
    views: ViewSpec = ViewSpec()
    dtype: StoredType = "float16"
    """Stored type of the values; with int8, only the tokens are int8, and `pooled` is float16."""
    amp: ValueType = "float32"
    """Type in which the model computed."""

    def fingerprint(self) -> str:
        """Return the SHA-256 (hex) over every field."""
        return self.digest()


class SplitSpec(Config):
    """Identity of the rows of one split: a digest of its samples, and their number."""

    content: str | None = None
    """Digest of the ids and the content of the samples."""
    source: str | None = None
    """In format 1, instead: a digest that also covers labels and class names."""
    rows: Count

    @pydantic.model_serializer(mode="wrap")
    def _given(self, handler: pydantic.SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in handler(self).items() if value is not None}


class FeatureSpec(Config):
    """Identity of features for a model that was trained on them.

    Stored type, views, classes and samples are not part of it: they may differ from those of the training.
    """

    encoder: EncoderSpec
    layer: int
    tokens: str
    dim: int
    """Width of the layer's tokens."""
    pooled: int
    """Width of the model's own pooled embedding."""


class LayoutSpec(Config):
    """Options that change only the bytes, never the meaning; not part of the fingerprint.

    >>> LayoutSpec(shard_size="1GB").block_rows(302_592)
    3264
    >>> LayoutSpec(shard_size="500").block_rows(302_592)
    500
    """

    shard_size: str = "128MB"
    """Size of the shards of the largest array, in bytes ("64MB", "1GiB") or rows ("512")."""

    @pydantic.field_validator("shard_size")
    @classmethod
    def _readable(cls, value: str) -> str:
        layout.block_rows(value, 1)
        return value

    def block_rows(self, row_bytes: int) -> int:
        """Return the samples per shard if the largest array has `row_bytes` bytes per row."""
        return layout.block_rows(self.shard_size, row_bytes)


class TokenArray(Config):
    """Tokens of one layer: first `prefix` tokens, then a row-major grid, if any."""

    layer: Layer
    tokens: Size
    dim: Size
    prefix: Size = 0
    grid: tuple[Size, Size] | None = None
    std: tuple[float, ...] = ()
    """(D,) divisors of int8 tokens, one for each dimension: measured once, before the first shard."""


class Shapes(Config):
    """Geometry of a cache, known after the first batch."""

    layers: Annotated[tuple[TokenArray, ...], pydantic.Field(min_length=1, max_length=1000)]
    """In the order of CacheSpec.layers."""
    pooled: Size
    """Width of the model's own pooled embedding."""
    mask: bool = False
    """True if samples differ in length, so that a token mask is stored."""

    def with_std(self, std: Mapping[int, Sequence[float]]) -> Shapes:
        """Return these shapes with the `std` of the int8 tokens, by layer."""
        layers = (array.model_copy(update={"std": tuple(std[array.layer])}) for array in self.layers)
        return self.model_copy(update={"layers": tuple(layers)})


def array_name(shapes: Shapes, layer: int) -> str:
    """Return the name of a token array: `tokens` for the first layer, else `tokens_layer-2` and so on."""
    return "tokens" if layer == shapes.layers[0].layer else f"tokens_layer{layer}"


def scale_name(tokens: str) -> str:
    """Return the name of the scales of an int8 token array: `token_scale`, `token_scale_layer-2`, ..."""
    return f"token_scale{tokens.removeprefix('tokens')}"
