"""Where the labels of a source come from, for people: `extract` and `info` say what was understood."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["folder", "column", "array", "pattern", "none", "built in"]


@dataclass(frozen=True)
class Origin:
    """Where the labels of all splits of a source come from. `None` as the origin says nothing.

    Texts may hold marked options (`featcache.errors.option`).
    """

    kind: Kind
    name: str | None = None
    """The column, array or pattern; None if there are no labels."""
    known: tuple[str, ...] = ()
    """The columns or arrays that there are."""
    likely: str | None = None
    """The column that may hold the labels, where none is known as one."""
    notes: tuple[str, ...] = ()
    """What was left out or merged, one sentence each."""

    def describe(self) -> str:
        """Say in a few words what the classes are."""
        return {
            "folder": "classes are the first folder level",
            "column": f"labels are the column `{self.name}`",
            "array": f"labels are `{self.name}`",
            "pattern": f"classes are LABEL in {self.name}",
            "built in": "labels are part of the data set",
            "none": "no labels",
        }["none" if self.name is None and self.kind in ("column", "array") else self.kind]
