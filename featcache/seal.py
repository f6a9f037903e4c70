"""Seal small files: a crc32c near the front of a file covers all its other bytes.

A sealed file is still plain JSON or safetensors. It is checked without any other file, so writing it stays
one atomic step.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import google_crc32c

KEY = "seal"
"""The key of the seal, which comes before all that users have named."""
OPEN = "crc32c:00000000"
"""The seal of a file that is not sealed yet."""
# In safetensors it lies in JSON within JSON, so its quotes are escaped.
_SEAL = re.compile(rb'seal\\?"\s*:\s*\\?"crc32c:(.{8})', re.DOTALL)

# What is left of a seal in which one character is another one.
_BROKEN = re.compile(rb'seal\\?"\s*:\s*\\?".{15}\\?"|crc32c:[0-9a-f]{8}\\?"', re.DOTALL)


def seal(data: bytes) -> bytes:
    """Return a file whose first seal is open with the crc32c of `data` in it; raise ValueError without one.

    >>> seal(b'{"seal": "crc32c:00000000", "step": 7}')
    b'{"seal": "crc32c:a48e28bc", "step": 7}'
    """
    found = _SEAL.search(data)
    if found is None or found[1] != b"00000000":
        raise ValueError("no open seal in these bytes")
    return data[: found.start(1)] + b"%08x" % google_crc32c.value(data) + data[found.end(1) :]


def is_whole(data: bytes) -> bool | None:
    """Return True if a file has the bytes that were sealed, False if not, None if it has no seal.

    >>> file = seal(b'{"seal": "crc32c:00000000", "step": 7}')
    >>> is_whole(file), is_whole(file.replace(b"7}", b"6}")), is_whole(b'{"step": 7}')
    (True, False, None)
    """
    found = _SEAL.search(data)
    if found is None:
        return False if _BROKEN.search(data) else None
    return data == seal(_opened(data, found))


def sealed_json(content: Mapping[str, Any]) -> bytes:
    """Return the sealed file of a JSON object, whose first key is the seal."""
    return seal((json.dumps({KEY: OPEN, **content}, indent=2) + "\n").encode())


def _opened(data: bytes, found: re.Match[bytes]) -> bytes:
    return data[: found.start(1)] + b"0" * 8 + data[found.end(1) :]
