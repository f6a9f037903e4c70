"""Parse text that comes from outside: whatever it holds, it is a value or a ValueError."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from typing import Any


def json_of(text: bytes | str) -> Any:
    """Parse JSON; raise ValueError if it is not valid, not Unicode, or nested too deep.

    >>> json_of(b"[1]")
    [1]
    """
    return _parsed(json.loads, text)


def toml_of(text: bytes | str) -> dict[str, Any]:
    """Parse TOML; raise ValueError if it is not valid, not UTF-8, or nested too deep.

    >>> toml_of(b"a = 1")
    {'a': 1}
    """
    found: dict[str, Any] = _parsed(tomllib.loads, text.decode() if isinstance(text, bytes) else text)
    return found


def _parsed(parse: Callable[[Any], Any], text: bytes | str) -> Any:
    try:
        return parse(text)
    except RecursionError:
        raise ValueError("nested too deep") from None
