"""The options of an extraction, once: for Python, for a pipeline file and for the command line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import pydantic
from pydantic import Field

from featcache.config import Config, parse_overrides
from featcache.errors import ConfigError, option
from featcache.specs import Number, StoredType, TokenChoice, ValueType, ViewSpec

if TYPE_CHECKING:
    from featcache.cache.reader import CacheReader

_CONTENT = {"views", "tokens", "layers", "dtype", "amp", "label_column"}
_RECORDED = ("label_from", "no_labels", "batch_size")
"""Options that are recorded where they differ from the default; the last digits depend on the batch."""
_LAYERS = "different layers counted from the end, such as -1 or -1|-2"


def _views(value: Any) -> Any:
    """Read `weak=1,strong=2,flip=0`, as the command line spells views."""
    if not isinstance(value, str):
        return value
    parts = [part for part in value.split(",") if part]
    if wrong := [part for part in parts if "=" not in part]:
        expected = "NAME=VALUE, such as weak=1,strong=2"
        raise ConfigError(f"cannot read {option('views')}", got=wrong[0], expected=expected)
    return ViewSpec.parse(parse_overrides(parts), option("views"))


def _layers(value: Any) -> Any:
    """Read `-1|-2`, as the command line spells layers, or a single number."""
    if isinstance(value, str):
        try:
            return tuple(int(part) for part in value.split("|"))
        except ValueError:
            raise ValueError(_LAYERS) from None
    return (value,) if isinstance(value, int) else value


def _from_the_end(value: tuple[int, ...]) -> tuple[int, ...]:
    if not value or max(value) >= 0 or len(set(value)) != len(value):
        raise ValueError(_LAYERS)
    return value


Layers = Annotated[
    tuple[Annotated[int, Field(ge=-1000)], ...],
    pydantic.BeforeValidator(_layers),
    pydantic.AfterValidator(_from_the_end),
]


def _shard_size(value: str) -> str:
    from featcache.cache.layout import block_rows  # imports NumPy, which `--help` does without

    block_rows(value, 1)
    return value


class ExtractOptions(Config):
    """Options of an extraction; the descriptions are the help of `featcache extract`.

    Every field also takes its spelling on the command line.

    >>> options = ExtractOptions.of({"views": "weak=1,strong=2", "layers": "-1|-2", "batch_size": "8"})
    >>> options.views.names(), options.layers, options.batch_size
    (('eval', 'weak0', 'strong0', 'strong1'), (-1, -2), 8)
    """

    split: str | None = Field(None, description="One split of the source [default: all].")
    views: Annotated[ViewSpec, pydantic.BeforeValidator(_views)] = Field(
        ViewSpec(), description="Augmented views to cache, for example weak=1,strong=2,flip=0."
    )
    tokens: TokenChoice = Field("all", description="all, cls, patch, pooled or grid:HxW.")
    layers: Layers = Field((-1,), description="Layers from the end, for example -1|-2.")
    dtype: StoredType = Field(
        "float16", description="The type values are stored in; int8 tokens come with a scale each."
    )
    amp: ValueType = Field("float32", description="The type the model computes in.")
    limit: Number | Annotated[dict[str, Number], Field(min_length=1)] | None = Field(
        None, description="Only the first N samples of each split."
    )
    """A mapping gives N by split; only its splits are extracted, in its order."""
    label_column: str | None = Field(None, description="The label column of a table.")
    label_from: str | None = Field(
        None, description="Where a path names the class, for example '*/LABEL/**'; others are unlabelled."
    )
    no_labels: bool = Field(False, description="Take no labels from the source.")
    batch_size: Annotated[int, Field(gt=0, le=10**6)] | Literal["auto"] = Field(
        64, description="Views in a forward pass; auto: what a GPU's memory holds."
    )
    num_workers: Annotated[int, Field(ge=0, le=1024)] | None = Field(
        None, description="Reading processes; 0: a thread reads [default: half the cores]."
    )
    shard_size: Annotated[str, Field(coerce_numbers_to_str=True), pydantic.AfterValidator(_shard_size)] = (
        Field("128MB", description="Bytes, or a number of rows.")
    )

    @pydantic.model_validator(mode="after")
    def _one_choice_of_splits(self) -> Self:
        if self.split is not None and isinstance(self.limit, Mapping):
            raise ConfigError(
                f"{option('split')} and limits by split exclude each other",
                got=f"split {self.split}, limits of {', '.join(self.limit)}",
                expected="one of the two",
            )
        return self

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Validate options; raises ConfigError that names the argument, or the flag, that does not fit."""
        return cls.parse(values, where=None)

    @classmethod
    def recorded(cls, cache: CacheReader) -> Self:
        """Return the options that a cache was made with, as far as it says."""
        made = cache.provenance.get("options", {})
        spec = {name: getattr(cache.spec, name) for name in _CONTENT - {"label_column"}}
        more = {name: made[name] for name in ("label_column", *_RECORDED) if name in made}
        return cls.of(spec | more)

    def content(self) -> dict[str, Any]:
        """Return the options that decide what a cache holds, as JSON values."""
        changed = {name for name in _RECORDED if getattr(self, name) != type(self).model_fields[name].default}
        return self.model_dump(mode="json", include=_CONTENT | changed)
