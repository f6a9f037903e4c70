"""Say how to make a cache with the features that a run reads."""

from __future__ import annotations

from featcache.cache.spec import FeatureSpec
from featcache.errors import option
from featcache.specs import SAID


def how_to_make(wanted: FeatureSpec) -> str:
    """Return the command whose cache has these features, for the hint of an error."""
    if wanted.encoder.weights == SAID:
        return f"import with {option('model', wanted.encoder.name)}, if that made the embeddings"
    if wanted.encoder.imported:
        return f"import both caches with the same {option('model')}, if the same model made them"
    return f"extract with {extraction_of(wanted)}"


def extraction_of(wanted: FeatureSpec) -> str | None:
    """Return the options of an extraction with these features; None if they were imported."""
    if wanted.encoder.weights == SAID or wanted.encoder.imported:
        return None
    asked = (option("model", wanted.encoder.name), option("tokens", wanted.tokens))
    return f"{' '.join(asked)} {option('layers', [wanted.layer])}"
