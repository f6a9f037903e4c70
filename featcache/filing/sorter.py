"""Decide the place of every predicted file: a folder for each class."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

from featcache.errors import ConfigError, SourceError, option
from featcache.filing.folders import Folder, Kind
from featcache.filing.names import file_names, folder_names
from featcache.filing.originals import files_of, source_of
from featcache.sources.base import Source

APART = "unsure"
"""The folder of unsure files, if they are kept apart; no class gets this name."""


class Sorted(NamedTuple):
    """One row of a table: what decides the place of a file."""

    split: str
    id: str
    prediction: str | None
    unsure: bool | None


@dataclass(frozen=True)
class Sorter:
    """A request to sort files, with its opened source."""

    path: Path
    kind: Kind
    unsure_apart: bool
    splits: Mapping[str, Source]
    source: Path
    """What must not hold the folder."""

    @classmethod
    def of(
        cls,
        links: Path | None,
        copies: Path | None,
        *,
        unsure_apart: bool,
        provenance: Mapping[str, Any],
        source: str | os.PathLike[str] | None,
    ) -> Self | None:
        """Open what is needed to sort files; None if neither links nor copies are asked for.

        Raises ConfigError if both are, or if an option has no effect, and SourceError if the source of the
        cache cannot be opened.
        """
        if links is not None and copies is not None:
            raise ConfigError(
                "files are sorted in one way", got=f"{option('in_place_links')} and {option('copy_to')}"
            )
        folder = links if links is not None else copies
        if folder is None:
            for name, given in (("unsure_apart", unsure_apart), ("source", source is not None)):
                if given:
                    needed = f"{option('in_place_links')} or {option('copy_to')}"
                    raise ConfigError(f"{option(name)} has no effect without {needed}")
            return None
        named = os.fspath(source) if source is not None else str(provenance.get("source"))
        outside = Path(named).expanduser()
        kind: Kind = "links" if links is not None else "copies"
        return cls(folder, kind, unsure_apart, source_of(provenance, source), outside)

    def originals(self, split: str, ids: Sequence[str]) -> list[Path]:
        """Return the file of each id of a split; raises SourceError if there is none, or some are gone."""
        if split not in self.splits:
            raise SourceError(
                f"the source has no split `{split}` any more",
                got=", ".join(self.splits),
                hint=f"if it is at another place now, name that with {option('source')}",
            )
        return files_of(self.splits[split], split, ids)

    def plan(self, rows: Iterable[Sorted]) -> Folder:
        """Return the folder to fill; rows without a prediction have no place in it.

        Raises ConfigError if the folder holds something else. Writes nothing.
        """
        predicted = [row for row in rows if row.prediction is not None]
        classes = sorted({str(row.prediction) for row in predicted})
        folders = folder_names(classes, taken=[APART] if self.unsure_apart else [])
        places: dict[str, list[Sorted]] = {}
        for row in predicted:
            folder = folders[str(row.prediction)]
            apart = self.unsure_apart and row.unsure
            places.setdefault(f"{APART}/{folder}" if apart else folder, []).append(row)
        files: dict[str, Path] = {}
        several = len({row.split for row in predicted}) > 1
        for folder, held in places.items():
            names = file_names([f"{row.split}/{row.id}" if several else row.id for row in held])
            found = self._found(held)
            files |= {f"{folder}/{name}": file for name, file in zip(names, found, strict=True)}
        return Folder.plan(self.path, self.kind, files, outside=self.source)

    def _found(self, rows: Sequence[Sorted]) -> list[Path]:
        by_split: dict[str, list[str]] = {}
        for row in rows:
            by_split.setdefault(row.split, []).append(row.id)
        files = {
            (split, name): file
            for split, ids in by_split.items()
            for name, file in zip(ids, self.originals(split, ids), strict=True)
        }
        return [files[row.split, row.id] for row in rows]
