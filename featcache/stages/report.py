"""`featcache report`: a page of a run, or of several runs, as one file to look at and to hand on."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featcache.api.run import Run
from featcache.errors import ConfigError, option
from featcache.files import explained, write_atomic
from featcache.location import Location
from featcache.page import run_page, scatter, study_page
from featcache.page.judged import Content
from featcache.page.render import MARK, render
from featcache.page.run_page import Wanted
from featcache.results.compare import compare
from featcache.results.run_folders import Place, as_places, find_folders
from featcache.runs.run import is_run

MAP = "map.parquet"


@dataclass(frozen=True, repr=False)
class Report:
    """A page that was written, and what is in it."""

    path: Path
    content: Content
    map: Path | None = None
    """The table of the map, if one was asked for."""

    def as_dict(self) -> dict[str, Any]:
        """Return what is in the page as values that JSON can hold, without pictures."""
        found: dict[str, Any] = _without_pictures(self.content) | {"page": str(self.path)}
        return found | ({} if self.map is None else {"map_table": str(self.map)})

    def __repr__(self) -> str:
        return f"<Report {self.path}: {self.content['title']}>"


def report(
    runs: Place | Iterable[Place],
    out: str | os.PathLike[str] | Location = "report.html",
    *,
    map: bool = False,
    cache: str | os.PathLike[str] | Location | None = None,
    source: str | os.PathLike[str] | None = None,
    split: str | None = None,
    device: str = "auto",
    trust: bool = False,
) -> Report:
    """Write a page about a run or about several, as one file that needs no network; return it.

    `runs` are folders of runs, folders of studies, or patterns as for `compare`. The page of one run has its
    accuracy with intervals, confusion, reliability, learning curve and training curves, and samples to look
    at: the most confident mistakes, the least sure predictions, and where the projector looked. The page of
    several runs has their table, accuracy against labels, and the winner with its interval.

    For samples, the page of a run needs its `cache`, by default where it was at the training. Pictures and
    texts come from the `source` that the cache records, or from `source`. What is gone is said in the page.
    `split` is the split to look at: by default the test split, or that of the training. `map` adds a map of
    the samples, and writes map.parquet beside the page: split, id, x, y, label, prediction and confidence.
    The code of an own objective, which a run holds a copy of, is not run without `trust`.

    Raises ConfigError if no finished run is found, or if `out` exists and is no earlier page. Raises
    CacheError if the cache that is given, or that a map needs, cannot be used.

    >>> from tempfile import TemporaryDirectory
    >>> from featcache.stages.extract import extract
    >>> from featcache.stages.train import train
    >>> with TemporaryDirectory() as folder:
    ...     cache = extract("digits", "open_clip:glyph-clip", f"{folder}/c.zarr", limit=60, tokens="cls")
    ...     run = train(cache, "linear", labels_per_class=1, out=f"{folder}/run")
    ...     report(run, f"{folder}/report.html").content["samples"]["of"]
    '60'
    """
    path = Location.of(out).path
    _refuse_foreign(path)
    folders = find_folders(_with_studies(as_places(runs)))
    if len(folders) == 1:
        wanted = Wanted(
            cache=None if cache is None else Location.of(cache).path,
            source=None if source is None else os.fspath(source),
            split=split,
            device=device,
            map=map,
        )
        table = path.with_name(MAP) if map else None
        if table is not None:
            scatter.refuse_foreign(table)
        content, places = run_page.summarise(Run.open(folders[0], trust=trust), wanted)
    else:
        _require_one(map=map, cache=cache, source=source, split=split)
        found = compare(folders)
        content, places, table = study_page.summarise(found.rows, found.skipped), None, None
    write_page(path, content)
    if table is not None and places is not None:
        scatter.write(table, places)
    return Report(path, content, table)


def write_page(path: Path, content: Content) -> None:
    """Render a page to `path`, atomically."""
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, render(content).encode())


def _with_studies(places: Iterable[Place]) -> list[Place]:
    """Replace folders that hold runs, as those of a study do, by patterns for these runs."""
    found: list[Place] = []
    for place in places:
        path = Location.of(place if isinstance(place, (str, os.PathLike)) else place.path).path
        found.append(path / "**" if path.is_dir() and not is_run(path) else place)
    return found


def _require_one(**given: Any) -> None:
    """Raise ConfigError if something was asked for that only the page of one run has."""
    for name, value in given.items():
        if value:
            raise ConfigError(
                f"{option(name)} is for the page of one run", got="several runs, or none", expected="one run"
            )


def _refuse_foreign(path: Path) -> None:
    """Raise ConfigError if there is something else at `path` than an earlier page."""
    with explained(path):
        if not path.exists():
            return
        head = _beginning(path) if path.is_file() else None
    if head is None or (head and MARK not in head):
        raise ConfigError(
            f"{path} exists and is not a report; it is left as it is",
            got="a folder" if head is None else f"a file that begins with {head[:40]!r}",
            expected="an earlier report, or nothing",
            hint=f"choose another {option('out')}, such as report.html",
        )


def _beginning(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(200).decode(errors="replace")


def _without_pictures(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            name: _without_pictures(each) for name, each in value.items() if name not in ("image", "look")
        }
    return [_without_pictures(each) for each in value] if isinstance(value, list) else value
