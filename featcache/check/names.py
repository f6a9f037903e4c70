"""Class names that a person would take for the same."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterable


def alike(names: Iterable[str]) -> tuple[tuple[str, ...], ...]:
    """Group names that differ only in case, spaces, hyphens, underscores or their Unicode form.

    >>> alike(["Type A", "type_a", "owl"])
    (('Type A', 'type_a'),)
    >>> len(alike(["cafe\\u0301", "caf\\u00e9"]))
    1
    """
    groups = defaultdict(list)
    for name in names:
        groups[_plain(name)].append(name)
    return tuple(tuple(group) for group in groups.values() if len(group) > 1)


def _plain(name: str) -> str:
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    # Of a name of signs only, such as "+" and "-", nothing may be taken away.
    return "".join(c for c in folded if not c.isspace() and c not in "_-") or folded
