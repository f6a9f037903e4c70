"""`featcache label`: replace the labels of a cache; no sample is computed again."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from featcache.api.cache import Cache
from featcache.cache.reader import CacheReader
from featcache.cache.writer import CacheWriter
from featcache.errors import CacheError, in_python, on_the_command_line, option
from featcache.labels.table import LabelFiles, OwnLabels, read_labels
from featcache.location import Location
from featcache.shown import harmless

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from featcache.cache.labels import LabelTable


def label(
    cache: str | os.PathLike[str] | Location | CacheReader,
    labels: LabelFiles,
    *,
    update: bool = False,
    ignore_unmatched: bool = False,
    label_column: str | None = None,
    class_text: bool = False,
) -> Cache:
    """Replace the labels of a cache by those of one or more files, and return the cache.

    Each file is a table (CSV, TSV, JSONL, Parquet) of sample ids, file names or paths, and class names. A
    later file wins over an earlier one, and an empty class name takes a label back. With `update`, labels
    stay where the files say nothing. `class_text` embeds the class names with the model of the cache, where
    it has a text tower.

    Raises LabelError if a line fits no sample or several (`ignore_unmatched` leaves it out), and CacheError
    if another process is writing the cache.

    >>> from tempfile import TemporaryDirectory
    >>> from pathlib import Path
    >>> from featcache.stages.extract import extract
    >>> with TemporaryDirectory() as folder:
    ...     cache = extract("digits", "open_clip:glyph-clip", f"{folder}/c.zarr", limit=8)
    ...     table, (first, second, *_) = Path(folder, "mine.csv"), cache["train"].ids
    ...     _ = table.write_text(f"id,label\\n{first},round\\n{second},straight\\n")
    ...     label(cache, table).classes
    ('round', 'straight')
    """
    own = write_labels(
        cache,
        labels,
        update=update,
        ignore_unmatched=ignore_unmatched,
        label_column=label_column,
        class_text=class_text,
    )
    for warning in own.warnings:
        print(f"warning: {harmless(in_python(warning))}", file=sys.stderr)
    return Cache.open(Location.of(cache).path)


def write_labels(
    cache: str | os.PathLike[str] | Location | CacheReader,
    labels: LabelFiles,
    *,
    class_text: bool = False,
    **options: Any,
) -> OwnLabels:
    """Do what `label` does; return the labels and what is to be said about them."""
    opened = CacheReader.open(Location.of(cache).path)
    # The lock is taken first, since an update keeps what it reads.
    with CacheWriter(opened.path, opened.spec) as writer:
        own = read_labels(labels, opened, **options)
        if class_text:
            embedding, templates = class_text_of(opened, own.table)
            writer.class_text(embedding, own.table.class_names, templates)
        writer.label(own.table)
    return replace(own, warnings=(*own.warnings, *unused_names(opened, own.table)))


def unused_names(cache: CacheReader, table: LabelTable) -> list[str]:
    """Return a warning if the model of a cache can embed class names, but not all of `table` are embedded."""
    able = cache.has_class_text or cache.provenance.get("text_tower", False)
    if not able or not table.class_names or cache.text_of(table.class_names) is not None:
        return []
    return [f"class names are not used: embed them with {option('class_text', True)}"]


def class_text_of(cache: CacheReader, table: LabelTable) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """Embed class names with the model of a cache; return (C, P) embeddings and the templates.

    Raises CacheError if the model has no text tower, or is no longer the model of the cache.
    """
    from featcache import encoders
    from featcache.extraction.class_text import class_text

    model = cache.provenance.get("model", cache.spec.encoder.name)
    encoder = encoders.load(model)
    for name, got, expected in encoder.spec.diff(cache.spec.encoder):
        what = f"the `{name}` of the model {model} has changed since the extraction"
        raise CacheError(what, got=got, expected=expected)
    embedding = class_text(encoder, table.class_names)
    if embedding is None:
        hint = "leave it out: class names are then not used"
        raise CacheError(f"the model {model} has no text tower to embed class names with", hint=hint)
    return embedding.numpy(), tuple(encoder.templates)


def describe(own: OwnLabels) -> str:
    """Describe for the command line the labels of a cache by split and class, and what is to be said."""
    table, lines = own.table, []
    for split, labels in table.by_split.items():
        counts = ", ".join(f"{name} {count}" for name, count in table.counts(split).items() if count)
        lines.append(
            f"{split}: {int((labels >= 0).sum())} of {len(labels)} labelled"
            + (f": {counts}" if counts else "")
        )
    return "\n".join([*lines, *(f"warning: {on_the_command_line(warning)}" for warning in own.warnings)])
