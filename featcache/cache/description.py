"""The descriptions in the `zarr.json` of groups, checked: nobody knows who wrote them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

import pydantic
from pydantic import Field

from featcache.cache.records import FileRecord
from featcache.cache.spec import SplitSpec
from featcache.config import Config
from featcache.errors import CacheError, ConfigError
from featcache.specs import Count

# The forms below cannot lead out of the folder of a cache.
Part = Annotated[str, Field(pattern=r"^[^/\\\x00]{1,255}$"), pydantic.AfterValidator(lambda v: _no_dots(v))]
"""One part of a key: the name of a split."""
ArrayName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,255}$")]


def _no_dots(name: str) -> str:
    if name in (".", ".."):
        raise ValueError("a name within the cache")
    return name


class _Described(Config):
    # Later versions may add keys.
    model_config = pydantic.ConfigDict(extra="ignore", strict=True)


class Provenance(_Described):
    """The origin of a cache, as far as it is known, besides other keys."""

    source: str | None = None
    date: str | None = None
    model: str | None = None
    text_tower: bool = False
    options: dict[str, Any] | None = None
    versions: dict[str, str] = Field(default_factory=dict)


class CacheDescription(_Described):
    """The description of a cache; its spec and shapes are parsed on their own."""

    format: int
    fingerprint: str
    spec: dict[str, Any]
    shapes: dict[str, Any]
    provenance: Provenance


class SplitDescription(_Described):
    """The description of a split."""

    split: SplitSpec
    arrays: Annotated[list[ArrayName], Field(max_length=10_000)]


class LabelsDescription(_Described):
    """The description of the labels: where their table is, and what it must hold."""

    table: Annotated[str, Field(pattern="^[0-9a-f]{1,64}$")]
    content: Annotated[str, Field(alias="digest")]
    class_names: list[str]
    chosen: Count = 0
    splits: list[Part]


class ClassTextDescription(_Described):
    """The description of the embeddings of class names."""

    class_names: list[str]
    templates: list[str]
    files: dict[str, FileRecord] = Field(default_factory=dict)


Kind = TypeVar("Kind", bound=Config)


def parsed(kind: type[Kind], attributes: Mapping[str, Any], place: object) -> Kind:
    """Return the description that was stored at a place; raise CacheError if it is not one."""
    try:
        return kind.parse(attributes, "the description")
    except ConfigError as error:
        raise CacheError(
            f"the description of {place} is damaged",
            got=error.what if error.got is None else f"{error.what}: {error.got[:200]}",
            expected=error.expected,
            hint="`featcache repair CACHE` writes it again from its copy, if there is one",
        ) from None
