"""What a cache means (CacheSpec, SplitSpec, Shapes) and, apart, how its bytes are laid out (StorageSpec)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated

import pydantic

from featcache.cache import layout
from featcache.config import Config
from featcache.specs import Count, EncoderSpec, StoredType, ValueType, ViewSpec

FORMAT = 1


class CacheSpec(Config):
    """Everything that changes the meaning of the stored numbers; its digest is the cache's fingerprint."""

    format: int = FORMAT
    encoder: EncoderSpec
    layers: Annotated[tuple[int, ...], pydantic.Field(min_length=1)]
    """Layers counted from the end, -1 the last; the first one is stored as `tokens`."""
    tokens: str
    """Which tokens are kept: all, cls, patch, pooled or grid:HxW."""
    views: ViewSpec = ViewSpec()
    dtype: StoredType = "float16"
    """How values are stored; with int8, that is the tokens alone, and `pooled` is float16."""
    amp: ValueType = "float32"
    """In which type the model computed."""
    class_names: tuple[str, ...] = ()

    @pydantic.field_validator("tokens")
    @classmethod
    def _known(cls, value: str) -> str:
        if not re.fullmatch(r"all|cls|patch|pooled|grid:[1-9]\d*x[1-9]\d*", value):
            raise ValueError("all, cls, patch, pooled or grid:HxW")
        return value

    def fingerprint(self) -> str:
        """SHA-256 (hex) over every field."""
        return self.digest()


class SplitSpec(Config):
    """What the rows of one split are: the source's content digest and its length."""

    # On disk and in the configuration of a run, the digest is called `source`.
    model_config = pydantic.ConfigDict(populate_by_name=True, serialize_by_alias=True)

    source_digest: str = pydantic.Field(alias="source")
    rows: Count


class FeatureSpec(Config):
    """Where the features of a sample come from, as far as a model trained on them is concerned.

    Type of the stored values, views, classes and samples may differ from those of the training.
    """

    encoder: EncoderSpec
    layer: int
    tokens: str
    dim: int
    """Width of the layer's tokens."""
    pooled: int
    """Width of the model's own pooled embedding."""


class StorageSpec(Config):
    """What changes only the bytes, never the meaning; not part of the fingerprint.

    >>> StorageSpec(shard_size="1GB").block_rows(302_592)
    3264
    >>> StorageSpec(shard_size="500").block_rows(302_592)
    500
    """

    shard_size: str = "128MB"
    """Bytes ("64MB", "1GiB") of the largest array's shards, or a plain number of rows ("512")."""

    @pydantic.field_validator("shard_size")
    @classmethod
    def _readable(cls, value: str) -> str:
        layout.block_rows(value, 1)
        return value

    def block_rows(self, row_bytes: int) -> int:
        """Samples per shard where the largest array has `row_bytes` bytes a row."""
        return layout.block_rows(self.shard_size, row_bytes)


class TokenArray(Config):
    """The tokens of one layer: `prefix` tokens first, then a row-major grid, if any."""

    layer: int
    tokens: int
    dim: int
    prefix: int = 0
    grid: tuple[int, int] | None = None
    std: tuple[float, ...] = ()
    """Of int8 tokens, what each dimension was divided by: measured once, before the first shard."""


class Shapes(Config):
    """The geometry of a cache, known after the first batch."""

    layers: tuple[TokenArray, ...]
    """In the order of CacheSpec.layers."""
    pooled: int
    """Width of the model's own pooled embedding."""
    mask: bool = False
    """Whether samples differ in length, so that a token mask is stored."""

    def with_std(self, std: Mapping[int, Sequence[float]]) -> Shapes:
        """The same with the `std` of every layer's int8 tokens."""
        layers = (array.model_copy(update={"std": tuple(std[array.layer])}) for array in self.layers)
        return self.model_copy(update={"layers": tuple(layers)})


def array_name(shapes: Shapes, layer: int) -> str:
    """A layer's token array: `tokens` for the first layer, `tokens_layer-2` and so on for the others."""
    return "tokens" if layer == shapes.layers[0].layer else f"tokens_layer{layer}"


def scale_name(tokens: str) -> str:
    """The array of an int8 token array's scales: `token_scale`, `token_scale_layer-2` and so on."""
    return f"token_scale{tokens.removeprefix('tokens')}"
