"""Take labels from the names of samples (`label_from`), or none at all (`no_labels`)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.errors import ConfigError, SourceError, option
from featcache.sources._labels import class_name, encode
from featcache.sources._origin import Origin
from featcache.sources.base import UNLABELLED, Source
from featcache.specs import Modality

_LABEL = "LABEL"


class Relabelled:
    """The samples of a source with other labels."""

    def __init__(
        self, source: Source, labels: NDArray[np.int64], class_names: tuple[str, ...], origin: Origin
    ) -> None:
        self.modality: Modality = source.modality
        self.class_names = class_names
        self.ids: Sequence[str] = source.ids
        self.labels = labels
        self.origin = origin
        self._source = source

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Any:
        return self._source[index]

    def content(self, index: int) -> bytes:
        """Return the bytes of a sample, which do not depend on labels."""
        return self._source.content(index)


def relabel(splits: Mapping[str, Source], label_from: str | None, no_labels: bool) -> dict[str, Source]:
    """Return the splits with labels from the ids by the pattern `label_from`, or without labels.

    Raise ConfigError for a pattern without LABEL or for both options, and SourceError where no id matches.
    """
    if label_from is not None and no_labels:
        raise ConfigError(f"{option('label_from')} and {option('no_labels')} exclude each other")
    if label_from is None:
        return {name: _without(source) for name, source in splits.items()}
    match = compile_pattern(label_from)
    found = {
        name: (source.ids, [m["label"] if (m := match.fullmatch(key)) else None for key in source.ids])
        for name, source in splits.items()
    }
    classes = {
        name for _, values in found.values() for value in values if value and (name := class_name(value))
    }
    labels, names = encode(found, sorted(classes))
    if not names:
        got = next(iter(next(iter(splits.values())).ids))
        hint = "`*` is one part of a path, `**` any number of parts"
        raise SourceError(f"no sample matches {option('label_from', label_from)}", got=got, hint=hint)
    origin = Origin("pattern", label_from)
    return {
        name: Relabelled(source, labels[name], names, replace(origin, notes=_notes(source)))
        for name, source in splits.items()
    }


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """Return the regular expression of a pattern of paths, whose group `label` is the class.

    `*` and `LABEL` stand for one or more characters without a slash; the latter takes as many as it can.
    `**` as a part stands for any number of parts, and at the end for at least one. Raise ConfigError unless
    the word LABEL occurs once.

    >>> compile_pattern("*/LABEL/**").fullmatch("2024 Exp1/type B/plate1/01.png")["label"]
    'type B'
    >>> compile_pattern("LABEL_*.png").fullmatch("type_B_01.png")["label"]
    'type_B'
    """
    if pattern.count(_LABEL) != 1:
        raise ConfigError(
            f"{option('label_from')} does not say once which part of a path is the class",
            got=pattern,
            expected="a pattern with the word LABEL, such as LABEL/*, */LABEL/** or LABEL_*.png",
        )
    *folders, last = pattern.strip("/").split("/")
    parts = "".join("(?:[^/]+/)*" if part == "**" else f"{_part(part)}/" for part in folders)
    return re.compile(parts + ("(?:[^/]+/)*[^/]+" if last == "**" else _part(last)))


def _part(part: str) -> str:
    """Return the expression of one part of a path."""
    words = re.split(rf"(\*|{_LABEL})", part)
    return "".join({"*": "[^/]+", _LABEL: "(?P<label>[^/]+)"}.get(word, re.escape(word)) for word in words)


def _notes(source: Source) -> tuple[str, ...]:
    return getattr(getattr(source, "origin", None), "notes", ())


def _without(source: Source) -> Source:
    origin = Origin("none", notes=_notes(source))
    return Relabelled(source, np.full(len(source), UNLABELLED), (), origin)
