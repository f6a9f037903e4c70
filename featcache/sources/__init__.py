"""Sources of samples: one format per file; `open_source` finds the format."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from featcache.config import did_you_mean
from featcache.errors import SourceError
from featcache.plugins import find, names
from featcache.sources._files import EMBEDDINGS, may_be_embeddings, require_file_or_folder
from featcache.sources._scan import describe_left_out, scan

if TYPE_CHECKING:
    from featcache.sources.base import Source

_EXPECTED = (
    "digits, a folder of images, .parquet, .tar shards, .h5, .npy, .npz, "
    "a .csv or .jsonl with a path or a text column, a folder of these, or .txt"
)


_ARCHIVES = (".zip", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar")


def open_source(
    spec: str, *, label_column: str | None = None, label_from: str | None = None, no_labels: bool = False
) -> dict[str, Source]:
    """Return the splits of a data set by name, in the order train, validation, test, others.

    `spec` is `digits`, a path, or `format:path`. A path may contain `~` and glob or brace patterns of shards.
    With `format:path` the format is not detected. `label_column` names the labels in formats with columns.
    `label_from` takes them from the samples' ids instead, which are paths in most formats: `*/LABEL/**` makes
    the second folder the class. Samples that do not match are unlabelled. With `no_labels` all are.

    Raise SourceError if there is no such path, if no format or several formats fit, or if the data does not
    fit the format; ConfigError for options that exclude each other.

    >>> {name: len(source) for name, source in open_source("digits").items()}
    {'train': 1297, 'test': 500}
    """
    key, colon, rest = spec.partition(":")
    if colon and key in names("sources"):
        path = str(Path(rest).expanduser()) if rest else ""
    else:
        path, key = str(Path(spec).expanduser()), ""
    require_file_or_folder(Path(path))
    key = key or _detect(spec, Path(path))
    splits: dict[str, Source] = find("sources", key).splits(path, label_column)
    if label_from is None and not no_labels:
        return splits
    from featcache.sources._relabel import relabel

    return relabel(splits, label_from, no_labels)


def _detect(spec: str, path: Path) -> str:
    """Return the only format that fits the path; raise SourceError if there is none or several."""
    found = [key for key in names("sources") if find("sources", key).match(path)]
    if len(found) == 1:
        return found[0]
    if found:
        forced = " or ".join(f"`{key}:{spec}`" for key in found)
        raise SourceError(
            "more than one format fits the source",
            got=f"{spec} ({', '.join(found)})",
            hint=f"choose {forced}",
        )
    if path.exists():
        what = (
            "the folder is empty"
            if path.is_dir() and not any(path.iterdir())
            else "no format fits the source"
        )
        hint = f"name the format as FORMAT:{spec}, with FORMAT one of {', '.join(names('sources'))}"
        unread = describe_left_out(scan(path).others) if path.is_dir() else None
        got = f"{spec} ({unread})" if unread else spec
        if may_be_embeddings(path):
            hint = EMBEDDINGS
        elif path.suffix.lower() in _ARCHIVES:
            hint = "unpack it; shards for WebDataset are .tar files that are not compressed"
        raise SourceError(what, got=got, expected=_EXPECTED, hint=hint)
    key, colon, rest = spec.partition(":")
    hint = did_you_mean(key, names("sources")) if colon and Path(rest).exists() else "check the path"
    raise SourceError("there is no such file or folder", got=spec, expected=_EXPECTED, hint=hint)
