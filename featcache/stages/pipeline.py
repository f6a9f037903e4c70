"""`featcache run`: one typed file says what to extract and what to train; what is done already is skipped."""

from __future__ import annotations

import json
import math
import os
import time
import tomllib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from importlib import resources
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Self

import pydantic
from pydantic import Field, model_validator

from featcache import plugins
from featcache.cache.reader import CacheReader
from featcache.config import Config, did_you_mean, merge, nest
from featcache.devices import resolve
from featcache.errors import ConfigError
from featcache.extraction.options import ExtractOptions
from featcache.files import explained, write_atomic
from featcache.location import Location
from featcache.progress import MakeProgress, bar, silent
from featcache.report.grid import GridCell
from featcache.report.rows import CONTROLS
from featcache.report.study import Study, write_study
from featcache.stages.extract import run_extraction
from featcache.stages.train import run_training
from featcache.training.data import DataPool
from featcache.training.recipe import parse_options
from featcache.training.session import TrainRequest

Say = Callable[[str], None]
CacheName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*$")]
"""A name that can be part of a path."""


class ExtractTable(ExtractOptions):
    """`[extract.NAME]`: one cache. Keys are those of `featcache extract`."""

    source: str
    model: str


class TrainTable(Config):
    """`[train]`: the grid of trainings, every combination of these lists."""

    caches: tuple[str, ...] = ()
    """Names of `[extract.NAME]`; all of them by default."""
    conditions: tuple[str, ...] = ()
    """Names of `[condition.NAME]`; all of them by default."""
    objectives: tuple[str, ...] = Field(min_length=1)
    """Also names of `[variant.NAME]`."""
    controls: bool = True
    """Train zero_shot (where the cache has class text), knn, linear and supervised as well, if not listed."""
    against: tuple[str, ...] = ()
    """More of the objectives that the others are compared with, besides the controls; each is a column."""
    labels_per_class: tuple[pydantic.PositiveInt, ...] = ()
    num_labels: tuple[pydantic.PositiveInt, ...] = ()
    seeds: tuple[pydantic.NonNegativeInt, ...] = Field(default=(0,), min_length=1)


class VariantTable(Config):
    """`[variant.NAME]`: an objective with other options, under a name of its own in grid and table."""

    objective: str
    options: dict[str, Any] = Field(default_factory=dict)
    """Options of the objective; they win over its `[objective.NAME]`."""


class Pipeline(Config):
    """A whole pipeline file."""

    description: str = ""
    extract: dict[CacheName, ExtractTable] = Field(min_length=1)
    train: TrainTable
    options: dict[str, Any] = Field(default_factory=dict)
    """`[options]`: what `featcache train --set` takes, for every training."""
    objective: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """`[objective.NAME]`: options of one objective; they win over `[options]`."""
    variant: dict[CacheName, VariantTable] = Field(default_factory=dict)
    condition: dict[CacheName, dict[str, Any]] = Field(default_factory=dict)
    """`[condition.NAME]`: options, such as data.imbalance, under which the whole grid is trained once; they
    win over `[options]`. Objectives are compared within a condition."""
    select: dict[str, dict[str, Annotated[tuple[Any, ...], Field(min_length=1)]]] = Field(
        default_factory=dict
    )
    """`[select.NAME]`: values to choose from, by option (`"objective.w_ent" = [0.3, 1.0]`): every combination
    is trained beside the default, and one is chosen for each draw without test labels."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        for name in self.train.caches:
            if name not in self.extract:
                raise ConfigError(
                    f"`train.caches` names a cache that is not extracted: `{name}`",
                    hint=did_you_mean(name, self.extract),
                )
        for name in self.train.conditions:
            if name not in self.condition:
                raise ConfigError(
                    f"`train.conditions` names a condition that is not there: `{name}`",
                    hint=did_you_mean(name, self.condition) or "begin one with [condition.NAME]",
                )
        for name in self.variant:
            if name in plugins.names("objectives"):
                raise ConfigError(
                    f"`variant.{name}` has the name of an objective", hint="choose another name"
                )
        if not (self.train.labels_per_class or self.train.num_labels):
            raise ConfigError(
                "`train` says nothing of labels",
                expected="labels_per_class = [...] (of each class) or num_labels = [...] (in all)",
            )
        for name in (*self.objective, *self.variant, *self.train.objectives):
            for condition in self._conditions():
                parse_options(self.objective_of(name), self.options_of(name, condition))
        known = (*self.train.objectives, *self._controls(CONTROLS))
        for key, names in (("select", tuple(self.select)), ("train.against", self.train.against)):
            for name in names:
                if name not in known:
                    raise ConfigError(
                        f"`{key}` names an objective that is not trained: `{name}`",
                        hint=did_you_mean(name, known),
                    )
        for name in self.select:
            self.settings(name)
        return self

    def objective_of(self, name: str) -> str:
        """The objective that is called so, or whose variant is."""
        return self.variant[name].objective if name in self.variant else name

    def options_of(self, name: str, condition: str | None = None) -> dict[str, Any]:
        """What a training with this objective or variant gets as its options."""
        options = merge(merge({}, self.options), self.condition[condition] if condition else {})
        own = merge({}, self.objective.get(self.objective_of(name), {}))
        if name in self.variant:
            merge(own, self.variant[name].options)
        return merge(options, {"objective": own} if own else {})

    def _conditions(self) -> Sequence[str | None]:
        return self.train.conditions or tuple(self.condition) or (None,)

    def settings(self, name: str, condition: str | None = None) -> dict[str, dict[str, Any]]:
        """Options by the name of the setting: first the default (an empty name), then those that differ."""
        objective, default = self.objective_of(name), self.options_of(name, condition)
        found, parsed = {"": default}, [parse_options(objective, default)]
        grid = self.select.get(name, {})
        for values in product(*grid.values()) if grid else ():
            pairs = dict(zip(grid, values, strict=True))
            options = merge(merge({}, default), nest(pairs))
            if (this := parse_options(objective, options)) not in parsed:
                parsed.append(this)
                found[_name(pairs)] = options
        return found

    def _controls(self, of: Collection[str]) -> tuple[str, ...]:
        """Those to add to what is listed."""
        listed = self.train.objectives
        return tuple(name for name in of if self.train.controls and name not in listed)

    def requests(
        self, caches: Mapping[str, Path], with_text: Collection[str] = ()
    ) -> Iterator[tuple[GridCell, TrainRequest]]:
        """Every training of the grid, and its cell; `with_text`: names of caches that hold class text."""
        budgets = [("labels_per_class", n) for n in self.train.labels_per_class]
        budgets += [("num_labels", n) for n in self.train.num_labels]
        for cache, condition in product(self.train.caches or self.extract, self._conditions()):
            controls = [c for c in CONTROLS if c != "zero_shot" or cache in with_text]
            data = f"{cache}+{condition}" if condition else cache
            names = (*self._controls(controls), *self.train.objectives)
            for (kind, n), name in product(budgets, names):
                objective = self.objective_of(name)
                for setting, chosen in self.settings(name, condition).items():
                    options = _located(chosen, caches)
                    for seed in self.train.seeds:
                        yield (
                            GridCell(data, name, setting, f"{kind}={n}", seed),
                            TrainRequest(caches[cache], objective, seed, options=options, **{kind: n}),
                        )


def _name(pairs: Mapping[str, Any]) -> str:
    """A setting by its values: `w_ent=0.3,optim.steps=100`."""
    return ",".join(f"{key.removeprefix('objective.')}={value}" for key, value in pairs.items())


def _located(options: dict[str, Any], caches: Mapping[str, Path]) -> dict[str, Any]:
    """With `data.replay`, where it names a cache of the file, as that cache's place."""
    name = options.get("data", {}).get("replay")
    return merge(options, {"data": {"replay": caches[name]}}) if name in caches else options


def load(name: str, overrides: Mapping[str, Any] | None = None) -> Pipeline:
    """The pipeline in a TOML file, or the bundled one of that name; raises ConfigError if it does not fit."""
    path = find(name)
    try:
        content = tomllib.loads(path.read_bytes().decode())
    except ValueError as error:
        raise ConfigError(f"{path} is not TOML", got=error) from None
    return Pipeline.parse(merge(content, overrides or {}), str(name))


def find(name: str) -> Path:
    """Where a pipeline file is: a path, or the name of one that comes with featcache."""
    if (path := Location.of(name).path).is_file():
        return path
    if (path := bundled() / f"{name}.toml").is_file():
        return path
    known = sorted(file.stem for file in bundled().glob("*.toml"))
    raise ConfigError(
        "no such pipeline", got=name, hint=did_you_mean(name, known) + ", or the path of a TOML file"
    )


def bundled() -> Path:
    """The folder of pipelines: in the wheel inside the package, in a checkout beside it."""
    inside = Path(str(resources.files("featcache"))) / "pipelines"
    return inside if inside.is_dir() else inside.parents[1] / "pipelines"


def run_pipeline(
    name: str,
    *,
    out: str | os.PathLike[str] | Location | None = None,
    overrides: Mapping[str, Any] | None = None,
    device: str = "auto",
    say: Say = print,
    progress: bool = True,
) -> Study:
    """Extract and train what a pipeline file asks for under `out` (by default `runs/NAME`).

    Also writes the tables to `out`/results.md, a plot of them to `out`/results.png, and a reliability diagram
    to `out`/reliability.png. Finished trainings are kept,
    unfinished ones are resumed. Raises ConfigError, before anything is computed, where the file does not fit.
    """
    pipeline, show = load(name, overrides), bar if progress else silent
    folder = Path("runs") / Path(name).stem if out is None else Location.of(out).path
    if pipeline.description:
        say(pipeline.description.strip())
    caches, extractions = {}, []
    for key, spec in pipeline.extract.items():
        caches[key] = folder / "caches" / f"{key}.zarr"
        extractions.append(_extract(key, spec, caches[key], device, say, show))
    trained = []
    with_text = [key for key, path in caches.items() if CacheReader.open(path).class_text is not None]
    requests = list(pipeline.requests(caches, with_text))
    # Trainings on the same rows share them: a cache is opened and loaded once.
    pool = DataPool(resolve(device))
    for number, (cell, request) in enumerate(requests, start=1):
        run = folder / cell.path
        result = run_training(request, run, resume=run.exists(), pool=pool)
        accuracy, seconds = 100 * result["test"]["accuracy"], result["seconds"]
        say(f"[{number}/{len(requests)}] {cell.path}: {accuracy:.1f} % in {seconds:.1f} s")
        trained.append((cell, result))
    extraction = None if None in extractions else math.fsum(filter(None, extractions))
    return write_study(trained, extraction, folder, pipeline.train.against)


def _extract(
    name: str, table: ExtractTable, out: Path, device: str, say: Say, progress: MakeProgress
) -> float | None:
    """Seconds of the whole extraction, now or before (kept beside the cache); None if it was interrupted."""
    say(f"extracting {name}: {table.source} through {table.model}")
    start, kept = time.perf_counter(), out.with_suffix(".json")
    summaries = run_extraction(table.source, table.model, out, table, device=device, progress=progress)
    for split, summary in summaries.items():
        say(f"  {split}: {summary.rows} rows, {summary.computed} views computed in {summary.seconds:.1f} s")
    computed = sum(summary.computed for summary in summaries.values())
    asked = sum(summary.rows for summary in summaries.values()) * len(table.views.names())
    with explained(kept):
        if computed == asked:
            write_atomic(kept, json.dumps({"seconds": time.perf_counter() - start}).encode())
        elif computed:
            kept.unlink(missing_ok=True)
        return _seconds(kept)


def _seconds(path: Path) -> float | None:
    """A figure for a person: where the file is missing or damaged, there is none."""
    try:
        return float(json.loads(path.read_bytes())["seconds"])
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None
