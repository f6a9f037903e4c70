"""Find the finished runs among folders, however they were made, and read their JSON files."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from featcache.errors import DamagedRun, TrainError
from featcache.location import Location
from featcache.results.rows import Result
from featcache.runs.run import RunFolder, cache_of
from featcache.runs.saved import CONFIG, RESULT

FIGURES = ("accuracy", "nll", "ece", "nll_scaled", "ece_scaled")
"""Test figures that a row needs."""
_CONFIG_KEYS = ("objective", "seed", "options", "cache", "splits")
_RESULT_KEYS = ("test", "seconds", "seed", "labels_per_class", "num_labels")


class HasPath(Protocol):
    """An object with the path of a run folder, such as a run."""

    @property
    def path(self) -> str | os.PathLike[str]:
        """The folder."""


Place = str | os.PathLike[str] | HasPath
"""One run folder, or a glob pattern for several."""


class FinishedRun(NamedTuple):
    """The files of a finished run."""

    path: Path
    config: dict[str, Any]
    result: Result
    cache: str | None
    """The place of its cache; None in runs that do not record it."""


def as_places(runs: Place | Iterable[Place]) -> list[Place]:
    """Return a list of places; raises TypeError where one is neither a path nor an object with a path."""
    places: list[Any] = [runs] if _is_place(runs) else list(runs)  # type: ignore[arg-type]
    for place in places:
        if not _is_place(place):
            raise TypeError(f"a run folder is a path, a pattern or an object with a path, not {place!r}")
    return places


def find_folders(places: Iterable[Place]) -> list[Path]:
    """Return the folders of all places, each once; those of one pattern are in natural order.

    With `**` in a pattern, only folders with a config.json count. Raises ConfigError for a URL.
    """
    folders: dict[Path, Path] = {}
    for place in places:
        for folder in _matches(place):
            folders.setdefault(folder.resolve(), folder)
    return list(folders.values())


def read_runs(folders: Iterable[Path]) -> tuple[list[FinishedRun], dict[str, str]]:
    """Return the finished runs, and for each other folder the reason why it is none.

    Raises DamagedRun if a file that is read is damaged.
    """
    runs, skipped = [], {}
    for folder in folders:
        try:
            runs.append(_read(folder))
        except DamagedRun:
            raise
        except TrainError as error:
            skipped[str(folder)] = error.what
        except OSError as error:
            skipped[str(folder)] = f"cannot be read: {error.strerror or error}"
    return runs, skipped


def natural(text: str) -> list[str | int]:
    """Return a sorting key in which numbers count as numbers.

    >>> sorted(["seed=10", "seed=9"], key=natural)
    ['seed=9', 'seed=10']
    """
    return [int(part) if index % 2 else part for index, part in enumerate(re.split(r"([0-9]+)", text))]


def _is_place(runs: object) -> bool:
    return isinstance(runs, (str, os.PathLike)) or hasattr(runs, "path")


def _matches(place: Place) -> list[Path]:
    path = Location.of(place if isinstance(place, (str, os.PathLike)) else place.path).path
    if path.exists() or not glob.has_magic(str(path)):
        return [path]
    if "**" in path.parts:
        # Every folder matches `**`, also those inside caches: only those with a configuration are runs.
        matches = {Path(config).parent for config in glob.glob(str(path / CONFIG), recursive=True)}
        matches = {match for match in matches if matches.isdisjoint(match.parents)}
    else:
        matches = {Path(match) for match in glob.glob(str(path)) if os.path.isdir(match)}
    return sorted(matches, key=lambda match: natural(str(match)))


def _read(folder: Path) -> FinishedRun:
    run = RunFolder(folder)
    config, result = run.config(), run.result()
    if not config:
        raise TrainError(f"no {CONFIG}" if folder.is_dir() else "no such folder")
    if result is None:
        raise TrainError(f"not finished: no {RESULT}")
    _require(CONFIG, config, _CONFIG_KEYS)
    if "test" not in result and "num_labels" in result:
        raise TrainError("no test: its cache has no labelled test split")
    _require(RESULT, result, _RESULT_KEYS)
    _require(RESULT, result["test"], FIGURES)
    place = cache_of(run)
    return FinishedRun(folder, config, result, None if place is None else str(place))


def _require(name: str, content: Any, keys: Iterable[str]) -> None:
    missing = [key for key in keys if not isinstance(content, dict) or key not in content]
    if missing:
        raise TrainError(f"{name} lacks `{missing[0]}`")
