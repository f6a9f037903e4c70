"""Find the files that the samples of a cache were read from."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from featcache.errors import SourceError, option
from featcache.sources import open_source
from featcache.sources.base import Source


def source_of(provenance: Mapping[str, Any], source: str | os.PathLike[str] | None) -> dict[str, Source]:
    """Open the source that a cache was extracted from, or `source`, if it is at another place now.

    Raises SourceError if the cache does not record it, or if it cannot be opened.
    """
    named = os.fspath(source) if source is not None else provenance.get("source")
    if not named:
        raise SourceError(
            "the cache does not say what it was extracted from", hint=f"name it with {option('source')}"
        )
    column = (provenance.get("options") or {}).get("label_column")
    try:
        return open_source(named, label_column=column)
    except SourceError as error:
        raise SourceError(
            f"the source {named} cannot be opened",
            got=error.got or error.what,
            hint=f"if it is at another place now, name that with {option('source')}",
        ) from error


def files_of(source: Source, name: str, ids: Sequence[str]) -> list[Path]:
    """Return the absolute path of the file of each id; `name` is that of the split.

    Raises SourceError if the samples are not files of their own, or if some are gone.
    """
    file = getattr(source, "file", None)
    if file is None or (len(source) and file(0) is None):
        raise SourceError(
            f"the samples of `{name}` are not files of their own, so they cannot be sorted into folders",
            expected="a folder of images, or a CSV or JSONL list of image files",
            hint=f"leave out {option('in_place_links')} and {option('copy_to')}; the table has everything",
        )
    rows = {sample: row for row, sample in enumerate(source.ids)}
    found = {sample: Path(os.path.abspath(file(rows[sample]))) for sample in ids if sample in rows}
    lost = [sample for sample in ids if sample not in found or not found[sample].is_file()]
    if lost:
        raise SourceError(
            f"{len(lost)} of {len(ids)} files of `{name}` are not there any more; nothing was written",
            got=", ".join(lost[:3]) + (", ..." if len(lost) > 3 else ""),
            hint=f"if they are at another place now, name that with {option('source')}",
        )
    return [found[sample] for sample in ids]
