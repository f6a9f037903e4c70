"""`featcache info`: describe a cache in a few lines."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from featcache.cache.reader import FAILED, CacheReader
from featcache.extraction.understood import SplitClasses, listed
from featcache.files import human_bytes
from featcache.location import Location

_LABELS = ("label_column", "label_from", "no_labels")


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
        "weights": cache.spec.encoder.weights_text(),
        "views": list(cache.spec.views.names()),
        "dtype": cache.spec.dtype,
        "tokens": cache.spec.tokens,
        "layers": [layer.model_dump(exclude={"std"}) for layer in cache.shapes.layers],
        "pooled": cache.shapes.pooled,
        "classes": list(cache.class_names),
        "class_text": cache.class_text is not None,
        "provenance": cache.provenance,
        "splits": {name: _split(cache, name) for name in cache.described},
        "undescribed": list(cache.undescribed),
    }


def _split(cache: CacheReader, name: str) -> dict[str, Any]:
    split = cache.split(name)
    labels = SplitClasses.of(split.class_names, split.labels)
    return {
        "rows": split.rows,
        "labelled": labels.rows - labels.unlabelled,
        "unlabelled": labels.unlabelled,
        "classes": dict(labels.classes),
        "failed": int((split.status == FAILED).any(1).sum()),
        "shards": len(split.units),
        "missing_shards": len(split.missing()),
    }


def describe(content: dict[str, Any]) -> str:
    """Format the result of `info` as lines of text."""
    lines = [
        f"{content['path']}: {human_bytes(content['bytes'])}, fingerprint {content['fingerprint'][:12]}",
        f"model:   {content['encoder']['name']} ({content['weights']})",
        *_made(content["provenance"]),
        f"views:   {', '.join(content['views'])}",
    ]
    for layer in content["layers"]:
        grid = f", grid {layer['grid'][0]}x{layer['grid'][1]}" if layer["grid"] else ""
        shape = f"{layer['tokens']} x {layer['dim']} {content['dtype']}"
        lines.append(f"tokens:  layer {layer['layer']}: {shape}, {layer['prefix']} prefix{grid}")
    lines.append(f"pooled:  {content['pooled']}")
    text = ", with text embeddings" if content["class_text"] else ""
    lines.append(f"classes: {len(content['classes'])}{text}")
    for name, split in content["splits"].items():
        missing = split["missing_shards"]
        state = f"{missing} of {split['shards']} shards missing" if missing else "complete"
        lines.append(
            f"{name}: {split['rows']} rows, {split['labelled']} labelled, {split['failed']} failed, {state}"
        )
        if split["classes"]:
            counts = [f"{key} {count}" for key, count in split["classes"].items()]
            rest = f", and {split['unlabelled']} unlabelled" if split["unlabelled"] else ""
            lines.append(f"  {listed(counts)}{rest}")
    for name in content["undescribed"]:
        lines.append(f"{name}: damaged or unfinished, as its description is gone; `featcache repair`")
    if any(split["missing_shards"] for split in content["splits"].values()):
        lines.append("not complete: repeat the command that wrote it, which computes what is missing")
    return "\n".join(lines)


def _made(provenance: Mapping[str, Any]) -> Iterator[str]:
    """Yield how a cache was made: from what, when, with which options and versions."""
    options = provenance.get("options", {})
    unusual = [f"{key} {value}" for key, value in options.items() if key in _LABELS and value]
    if source := provenance.get("source"):
        when = f", {provenance['date']}" if "date" in provenance else ""
        yield f"source:  {source}{when}{''.join(f', {text}' for text in unusual)}"
    if versions := provenance.get("versions"):
        yield f"made by: {', '.join(f'{name} {version}' for name, version in versions.items())}"
