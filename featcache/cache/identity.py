"""Whether an existing cache is the one asked for; if not, which field differs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from featcache.config import Config
from featcache.errors import CacheMismatch

_LONGEST = 120
_ELSEWHERE = "write to another place with --out, or replace this cache with --overwrite"


def require_same(
    path: Path, stored: Config, asked: Config, *, by: str = "as asked for", hint: str = _ELSEWHERE
) -> None:
    """Unless equal, raise CacheMismatch: the first differing field with both values, the others by name.

    `by` says who expects the value `asked`, and `hint` what to do next.
    """
    differing = [_narrow(*leaf) for leaf in stored.diff(asked)]
    if not differing:
        return
    (name, there, here), *more = differing
    also = f" (and {', '.join(name for name, _, _ in more)})" if more else ""
    raise CacheMismatch(
        f"{path} was made with another `{name}`{also}",
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
