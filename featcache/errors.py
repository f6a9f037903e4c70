"""The errors featcache raises on purpose: what was wrong, what was got, what was expected, what is next."""

from __future__ import annotations


class FeatcacheError(Exception):
    """A mistake or condition the user can act on; the CLI prints it without a traceback.

    The message is built from up to four parts, so that no error can forget one by accident.

    >>> print(FeatcacheError("unknown dtype", got="float8", expected="float16", hint="pass --dtype float16"))
    unknown dtype
      got:      float8
      expected: float16
      next:     pass --dtype float16
    """

    def __init__(
        self, what: str, *, got: object = None, expected: object = None, hint: str | None = None
    ) -> None:
        self.what, self.got, self.expected, self.hint = what, got, expected, hint
        parts = (("got:      ", got), ("expected: ", expected), ("next:     ", hint))
        lines = [what, *(f"  {name}{value}" for name, value in parts if value is not None)]
        super().__init__("\n".join(lines))

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword arguments survive the trip from a worker process.
        return _rebuild, (type(self), self.what, self.got, self.expected, self.hint)


def _rebuild(
    cls: type[FeatcacheError], what: str, got: object, expected: object, hint: str | None
) -> FeatcacheError:
    return cls(what, got=got, expected=expected, hint=hint)


class ConfigError(FeatcacheError):
    """An option, a pipeline file or an override that does not fit."""


class SourceError(FeatcacheError):
    """A whole source that cannot be read as asked (a folder, a file, a column)."""


class SampleError(FeatcacheError):
    """One sample that cannot be read; its row is kept and marked failed."""


class EncoderError(FeatcacheError):
    """A model that cannot be loaded, or whose output is not what a cache can hold."""


class CacheError(FeatcacheError):
    """A cache that is missing, damaged, busy, or cannot be written."""


class CacheMismatch(CacheError):
    """A cache that holds something else than what was asked for; names the differing field."""


class TrainError(FeatcacheError):
    """A training that cannot start or go on."""


class MissingExtra(FeatcacheError):
    """An optional dependency that is not installed; names the extra that brings it."""

    @classmethod
    def of(cls, package: str, extra: str) -> MissingExtra:
        """The error for `package`, which the optional dependency group `extra` installs."""
        return cls(f"the package `{package}` is not installed", hint=f"pip install 'featcache[{extra}]'")
