"""The errors that featcache raises on purpose: what is wrong, got, expected and next."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from typing import Any


class FeatcacheError(Exception):
    """A mistake or condition the user can act on; the command line prints it without a traceback.

    The message has up to four parts: what is wrong, what was found, what was expected, what to do next.

    >>> print(FeatcacheError("unknown dtype", got="float8", expected="float16", hint="choose another one"))
    unknown dtype
      got:      float8
      expected: float16
      next:     choose another one
    """

    def __init__(
        self, what: str, *, got: object = None, expected: object = None, hint: str | None = None
    ) -> None:
        self._parts = tuple(None if part is None else str(part) for part in (what, got, expected, hint))
        super().__init__(self.text())

    @property
    def what(self) -> str:
        """The first part: what is wrong."""
        return in_python(self._parts[0] or "")

    @property
    def got(self) -> str | None:
        """The value that was found."""
        return self._part(1)

    @property
    def expected(self) -> str | None:
        """The value that was expected."""
        return self._part(2)

    @property
    def hint(self) -> str | None:
        """The next thing to do."""
        return self._part(3)

    def text(self, *, command_line: bool = False) -> str:
        """Return the whole message, with options as Python arguments or as command-line flags."""
        what, *others = self._parts
        names = ("got:      ", "expected: ", "next:     ")
        parts = [f"  {name}{part}" for name, part in zip(names, others, strict=True) if part is not None]
        # Further lines are indented, so that no name with a line break passes for another message.
        write = on_the_command_line if command_line else in_python
        return "\n".join(write(part).replace("\n", "\n" + " " * 12) for part in (what or "", *parts))

    def _part(self, index: int) -> str | None:
        part = self._parts[index]
        return None if part is None else in_python(part)

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword arguments survive the trip from a worker process.
        return _rebuild, (type(self), *self._parts)


def option(name: str, value: object = None) -> str:
    """Mark an option in a message: Python users read an argument, command-line users a flag.

    A dotted name is an option of a training: a key of `options` in Python, a value of `--set` otherwise.

    >>> error = FeatcacheError("too large", hint=f"pass {option('batch_size', 8)}")
    >>> error.hint, error.text(command_line=True).splitlines()[1]
    ('pass batch_size=8', '  next:     pass --batch-size 8')
    >>> error = FeatcacheError("too few", hint=f"pass {option('optim.steps', 9)}")
    >>> error.hint, error.text(command_line=True).splitlines()[1]
    ("pass options={'optim.steps': 9}", '  next:     pass --set optim.steps=9')
    """
    return f"\x02{json.dumps([name, value], default=str)}\x03"


def in_python(text: str) -> str:
    """Write the marked options of a message as Python arguments."""
    return _MARK.sub(lambda mark: _written(mark, _argument), text)


def on_the_command_line(text: str) -> str:
    """Write the marked options of a message as command-line flags."""
    return _MARK.sub(lambda mark: _written(mark, _flag), text)


def _written(mark: re.Match[str], write: Callable[[str, Any], str]) -> str:
    try:
        name, value = json.loads(mark[1])
        return write(name, value)
    except (ValueError, TypeError, AttributeError, RecursionError):  # no mark of ours, but a strange name
        return mark[0]


_MARK = re.compile("\x02(.*?)\x03")
_FLAGS = {"layers": "--layer"}
"""Flags that are spelled differently from the argument."""


def _argument(name: str, value: Any) -> str:
    if "." in name:
        return f"options={{{name!r}: {'...' if value is None else repr(value)}}}"
    return f"`{name}`" if value is None else f"{name}={value!r}"


def _flag(name: str, value: Any) -> str:
    if "." in name:
        return f"--set {name}={'...' if value is None else value}"
    flag = _FLAGS.get(name, f"--{name.replace('_', '-')}")
    if value is None or value is True:
        return flag
    if isinstance(value, str):
        return f"{flag} {shlex.quote(value)}"
    return f"{flag} {'|'.join(map(str, value)) if isinstance(value, list) else value}"


def _rebuild(
    cls: type[FeatcacheError], what: str, got: object, expected: object, hint: str | None
) -> FeatcacheError:
    return cls(what, got=got, expected=expected, hint=hint)


class ConfigError(FeatcacheError):
    """An option, a pipeline file or an override that is not valid."""


class SourceError(FeatcacheError):
    """A whole source that cannot be read as asked (a folder, a file, a column)."""


class SampleError(FeatcacheError):
    """One sample that cannot be read; its row is kept and marked failed."""


class EncoderError(FeatcacheError):
    """A model that cannot be loaded, or whose output cannot be cached."""


class FileError(FeatcacheError):
    """A file or folder that cannot be read or written, for example on a full disk."""


class CacheError(FeatcacheError):
    """A cache that is missing, damaged, busy, or cannot be written."""


class CacheMismatch(CacheError):
    """A cache with different content than requested; names the differing field."""


class LabelError(FeatcacheError):
    """Labels cannot be read, or do not fit the samples."""


class LimitError(SourceError):
    """A limit of this machine was met, or a reading process died; the same may work again, or elsewhere."""


class ClusterError(FeatcacheError):
    """A Dask cluster that cannot be reached, or whose workers die."""


class TrainError(FeatcacheError):
    """A training that cannot start or continue."""


class DamagedRun(TrainError):
    """A file of a run that is not as it was written."""


class Notice(UserWarning):
    """A thing that a user should know, though the work goes on; the command line prints it on stderr."""


class MissingExtra(FeatcacheError):
    """An optional dependency that is not installed; names the extra that installs it."""

    @classmethod
    def of(cls, package: str, extra: str) -> MissingExtra:
        """Return the error for `package`, which the extra `extra` installs."""
        return cls(f"the package `{package}` is not installed", hint=f"pip install 'featcache[{extra}]'")
