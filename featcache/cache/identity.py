"""Compare an existing cache with the one requested, and name the fields that differ."""

from __future__ import annotations

from typing import Any

from featcache.config import Config
from featcache.errors import CacheMismatch, option

ELSEWHERE = (
    f"write to another place ({option('out')}), or replace this cache with {option('overwrite', True)}"
)
_LONGEST = 120


def require_same(
    place: object, stored: Config, asked: Config, *, by: str = "as asked for", hint: str = ELSEWHERE
) -> None:
    """Raise CacheMismatch unless both are equal: the first differing field with both values, others by name.

    `place` names the cache in the message. `by` says who expects the value `asked`; `hint` says what to do.
    """
    differing = [_narrow(*leaf) for leaf in stored.diff(asked)]
    if not differing:
        return
    (name, there, here), *more = differing
    also = f" (and {', '.join(name for name, _, _ in more)})" if more else ""
    raise CacheMismatch(
        f"{place} was made with another `{name}`{also}",
        got=f"{_short(there)} in the cache",
        expected=f"{_short(here)} {by}",
        hint=hint,
    )


def _narrow(name: str, there: Any, here: Any) -> tuple[str, Any, Any]:
    """Follow lists and mappings down to the first value that differs."""
    if isinstance(there, list) and isinstance(here, list) and len(there) == len(here):
        at = next(i for i, pair in enumerate(zip(there, here, strict=True)) if pair[0] != pair[1])
        return _narrow(f"{name}[{at}]", there[at], here[at])
    if isinstance(there, dict) and isinstance(here, dict) and there.keys() == here.keys():
        key = next(key for key in there if there[key] != here[key])
        return _narrow(f"{name}.{key}", there[key], here[key])
    return name, there, here


def _short(value: Any) -> str:
    text = str(value)
    if len(text) <= _LONGEST:
        return text
    count = f" ({len(value)} in all)" if isinstance(value, list) else ""
    return f"{text[:_LONGEST]}...{count}"
