"""The record of a file of a cache, its size and crc32c; and the error for a file that differs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import google_crc32c
import pydantic

from featcache.config import Config
from featcache.errors import CacheError
from featcache.specs import Count

Data = bytes
"""Under another name, as a record has a field `bytes`."""


def _within(key: str) -> str:
    parts = key.split("/")
    if not key or len(key) > 1000 or "\\" in key or "\0" in key or {"", ".", ".."} & {*parts}:
        raise ValueError("a key within the cache, such as pooled/c/0/0/0")
    return key


Key = Annotated[str, pydantic.AfterValidator(_within)]
"""The key of a file in a stored record, which must not lead out of the folder."""


class FileRecord(Config):
    """One file, as it was committed."""

    bytes: Count
    crc32c: Annotated[int, pydantic.Field(ge=0, le=2**32 - 1)]

    @classmethod
    def of(cls, data: Data) -> FileRecord:
        """Return the record of a file with these bytes."""
        return cls(bytes=len(data), crc32c=google_crc32c.value(data))

    def __str__(self) -> str:
        return f"{self.bytes:,} bytes with crc32c {self.crc32c:08x}"

    def require(self, file: str, data: Data | None) -> None:
        """Raise CacheError, naming the file, unless it has these bytes."""
        found = None if data is None else FileRecord.of(data)
        if found != self:
            raise damaged(file, found or "no such file", self)


def damaged(
    file: str | Path, got: object, expected: object, rows: str | None = None, *, hint: str | None = None
) -> CacheError:
    """Return the error for a file of a cache that is missing, truncated or altered; `rows` are in it."""
    concerned = f": it holds {rows}" if rows else ""
    hint = hint or (
        "`featcache repair CACHE` writes it again; where it is missing or truncated, so does the same "
        "`featcache extract` command"
    )
    return CacheError(f"the file {file} is damaged{concerned}", got=got, expected=expected, hint=hint)


def altered(file: str | Path) -> CacheError:
    """Return the error for a sealed file whose bytes have changed."""
    return damaged(file, "other bytes than were written", "the bytes that its seal covers")
