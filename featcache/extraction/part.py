"""A part of an extraction: every n-th block, for one of n processes that know nothing of each other."""

from __future__ import annotations

import re
from typing import NamedTuple, Self

from featcache.errors import ConfigError, option

MOST = 100_000


class Part(NamedTuple):
    """The `number`-th of `of` parts, counted from 1."""

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `3/8`; raises ConfigError for anything else.

        >>> Part.parse("3/8")
        Part(number=3, of=8)
        """
        found = re.fullmatch(r"([1-9]\d*)/([1-9]\d*)", text)
        part = None if found is None else cls(int(found[1]), int(found[2]))
        if part is None or part.number > part.of or part.of > MOST:
            raise ConfigError(
                f"{option('shard_of')} is no part of an extraction",
                got=repr(text),
                expected="NUMBER/PARTS, counted from 1, such as 3/8",
            )
        return part

    def __str__(self) -> str:
        return f"{self.number}-of-{self.of}"

    def has(self, block: int) -> bool:
        """Return True if a block belongs to this part, by its number over all splits.

        >>> [block for block in range(7) if Part(2, 3).has(block)]
        [1, 4]
        """
        return block % self.of == self.number - 1
