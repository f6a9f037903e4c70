"""`featcache info`: describe a cache in a few lines."""

from __future__ import annotations

import os
from typing import Any

from featcache.cache.reader import FAILED, CacheReader, SplitReader
from featcache.files import human_bytes
from featcache.location import Location
from featcache.sources.base import UNLABELLED


def info(cache: str | os.PathLike[str] | Location) -> dict[str, Any]:
    """Return the model, shapes and state of a cache as plain values.

    Raises CacheError if there is no cache.
    """
    return _content(CacheReader.open(Location.of(cache).path))


def _content(cache: CacheReader) -> dict[str, Any]:
    return {
        "path": str(cache.path),
        "fingerprint": cache.fingerprint,
        "bytes": cache.nbytes(),
        "encoder": cache.spec.encoder.model_dump(),
        "views": list(cache.spec.views.names()),
        "dtype": cache.spec.dtype,
        "tokens": cache.spec.tokens,
        "layers": [layer.model_dump(exclude={"std"}) for layer in cache.shapes.layers],
        "pooled": cache.shapes.pooled,
        "classes": list(cache.class_names),
        "class_text": cache.class_text is not None,
        "splits": {name: _split(cache.split(name)) for name in cache.split_names},
    }


def _split(split: SplitReader) -> dict[str, Any]:
    missing = split.missing()
    return {
        "rows": split.rows,
        "labelled": int((split.labels != UNLABELLED).sum()),
        "failed": int((split.status == FAILED).any(1).sum()),
        "shards": len(split.units),
        "missing_shards": len(missing),
    }


def describe(content: dict[str, Any]) -> str:
    """Format the result of `info` as lines of text."""
    lines = [
        f"{content['path']}: {human_bytes(content['bytes'])}, fingerprint {content['fingerprint'][:12]}",
        f"model:   {content['encoder']['name']} (weights {content['encoder']['weights'][:12]})",
        f"views:   {', '.join(content['views'])}",
        f"classes: {len(content['classes'])}{', with text embeddings' if content['class_text'] else ''}",
    ]
    for layer in content["layers"]:
        grid = f", grid {layer['grid'][0]}x{layer['grid'][1]}" if layer["grid"] else ""
        shape = f"{layer['tokens']} x {layer['dim']} {content['dtype']}"
        lines.append(f"tokens:  layer {layer['layer']}: {shape}, {layer['prefix']} prefix{grid}")
    lines.append(f"pooled:  {content['pooled']}")
    for name, split in content["splits"].items():
        missing = split["missing_shards"]
        state = f"{missing} of {split['shards']} shards missing" if missing else "complete"
        lines.append(
            f"{name}: {split['rows']} rows, {split['labelled']} labelled, {split['failed']} failed, {state}"
        )
    return "\n".join(lines)
