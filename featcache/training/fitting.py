"""Say how to make a cache with the features that a run reads."""

from __future__ import annotations

from shlex import quote

from featcache.cache.spec import FeatureSpec
from featcache.errors import option
from featcache.specs import SAID


def how_to_make(wanted: FeatureSpec) -> str:
    """Return how to make a cache with these features, for the hint of an error."""
    if wanted.encoder.weights == SAID:
        return f"import with {option('model', wanted.encoder.name)}, if that made the embeddings"
    if wanted.encoder.imported:
        return f"import both caches with the same {option('model')}, if the same model made them"
    return f"extract with {_extraction(wanted)}"


def command_for(wanted: FeatureSpec, place: str, out: str) -> str:
    """Return the command that makes a cache at `out` of what is at `place`, with these features."""
    if wanted.encoder.imported:
        model = f" {option('model', wanted.encoder.name)}" if wanted.encoder.weights == SAID else ""
        return f"featcache import {quote(place)}{model} --out {quote(out)}"
    return f"featcache extract {quote(place)} {_extraction(wanted)} --out {quote(out)}"


def _extraction(wanted: FeatureSpec) -> str:
    asked = [option("model", wanted.encoder.name), option("tokens", wanted.tokens)]
    return " ".join([*asked, option("layers", [wanted.layer])])
