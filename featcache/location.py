"""The place of a cache, a run or a table: so far always a folder or a file on this machine."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from featcache.errors import ConfigError

_REMOTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
"""The beginning of a URL. One slash is enough, because `pathlib` turns `s3://bucket` into `s3:/bucket`."""


class HasPath(Protocol):
    """An object with a path, such as a location, a cache or a run."""

    @property
    def path(self) -> str | os.PathLike[str]:
        """The path."""


@dataclass(frozen=True)
class Location:
    """A place named by a user, after a check: a URL is refused, and `~` is the home folder.

    >>> Location.of("photos.zarr").path.name
    'photos.zarr'
    >>> Location.of("s3://bucket/photos.zarr")
    Traceback (most recent call last):
    ...
    featcache.errors.ConfigError: this is not a place on this machine: s3://bucket/photos.zarr
      expected: a path; buckets and other remote stores are not supported yet
      next:     copy it to a local disk, or mount the bucket, and give that path
    """

    path: Path

    @classmethod
    def of(cls, place: str | os.PathLike[str] | HasPath) -> Location:
        """Check a path, or that of a cache or a run; raise ConfigError for a URL such as `s3://bucket/key`."""
        text = os.fspath(getattr(place, "path", place))  # type: ignore[arg-type]
        if not text:
            raise ConfigError("an empty path is not a place", expected="the path of a folder or a file")
        if _REMOTE.match(text):
            raise remote(re.sub(":/+", "://", text, count=1))
        return cls(Path(text).expanduser())

    def __str__(self) -> str:
        return str(self.path)


def remote(url: str) -> ConfigError:
    """Return the error for a place that is not on this machine."""
    return ConfigError(
        f"this is not a place on this machine: {url}",
        expected="a path; buckets and other remote stores are not supported yet",
        hint="copy it to a local disk, or mount the bucket, and give that path",
    )
