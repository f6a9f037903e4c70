"""Where samples come from: one format per file, found by `open_source`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from featcache.config import did_you_mean
from featcache.errors import SourceError
from featcache.plugins import find, names

if TYPE_CHECKING:
    from featcache.sources.base import Source

_EXPECTED = (
    "digits, a folder of images, .parquet, .tar shards, .h5, .npy, .npz, "
    "a .csv or .jsonl with a path or a text column, or .txt"
)


def open_source(spec: str, *, label_column: str | None = None) -> dict[str, Source]:
    """The splits of a data set by name, in the order train, validation, test, others.

    `spec` is `digits`, a path (`~` and glob or brace patterns of shards included), or `format:path`, which
    takes that format without looking. Raises SourceError where there is nothing, no or more than one format
    fits, or the data is not what the format asks for.

    >>> {name: len(source) for name, source in open_source("digits").items()}
    {'train': 1297, 'test': 500}
    """
    key, colon, rest = spec.partition(":")
    if colon and key in names("sources"):
        path = str(Path(rest).expanduser()) if rest else ""
    else:
        path = str(Path(spec).expanduser())
        key = _detect(spec, Path(path))
    splits: dict[str, Source] = find("sources", key).splits(path, label_column)
    return splits


def _detect(spec: str, path: Path) -> str:
    found = [key for key in names("sources") if find("sources", key).match(path)]
    if len(found) == 1:
        return found[0]
    if found:
        forced = " or ".join(f"`{key}:{spec}`" for key in found)
        raise SourceError(
            "more than one format fits the source", got=f"{spec} ({', '.join(found)})", hint=f"say {forced}"
        )
    if path.exists():
        what = (
            "the folder is empty"
            if path.is_dir() and not any(path.iterdir())
            else "no format fits the source"
        )
        hint = f"say which: FORMAT:{spec}, with FORMAT one of {', '.join(names('sources'))}"
        raise SourceError(what, got=spec, expected=_EXPECTED, hint=hint)
    key, colon, rest = spec.partition(":")
    hint = did_you_mean(key, names("sources")) if colon and Path(rest).exists() else "check the path"
    raise SourceError("there is no such file or folder", got=spec, expected=_EXPECTED, hint=hint)
