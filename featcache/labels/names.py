"""Class names that a person would take for the same."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable


def alike(names: Iterable[str]) -> tuple[tuple[str, ...], ...]:
    """Group names that differ only in case, spaces, hyphens, underscores, unseen signs or their Unicode form.

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
    folded = "".join(sign for sign in folded if unicodedata.category(sign) != "Cf")  # has no width
    # Only signs between words go: `A+` is another class than `A`, and `-` than `_`.
    words = re.split(r"[\s_-]+(?=\w)", folded.strip())
    return "".join(words) or folded
