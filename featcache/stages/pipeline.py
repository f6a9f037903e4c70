"""`featcache run`: extract and train as one typed file says; finished parts are skipped."""

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
from featcache.config import Config, as_tree, did_you_mean, merge, nest
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
"""A name that can be used as a file name."""


class ExtractTable(ExtractOptions):
    """`[extract.NAME]`: one cache. The keys are the options of `featcache extract`."""

    source: str
    model: str


class TrainTable(Config):
    """`[train]`: the grid of trainings, which is every combination of these lists."""

    caches: tuple[str, ...] = ()
    """Names of `[extract.NAME]`; by default all of them."""
    conditions: tuple[str, ...] = ()
    """Names of `[condition.NAME]`; by default all of them."""
    objectives: tuple[str, ...] = Field(min_length=1)
    """Names of objectives or of `[variant.NAME]`."""
    controls: bool = True
    """Also train zero_shot (if the cache has class text), knn, linear and supervised."""
    against: tuple[str, ...] = ()
    """Objectives, besides the controls, to compare the others with; each gets a column."""
    labels_per_class: tuple[pydantic.PositiveInt, ...] = ()
    """Numbers of labels of each class; each is one label budget."""
    num_labels: tuple[pydantic.PositiveInt, ...] = ()
    """Numbers of labels in all; each is one label budget."""
    seeds: tuple[pydantic.NonNegativeInt, ...] = Field(default=(0,), min_length=1)


class VariantTable(Config):
    """`[variant.NAME]`: an objective with other options, under its own name."""

    objective: str
    options: dict[str, Any] = Field(default_factory=dict)
    """Options of the objective; they override its `[objective.NAME]`."""


class Pipeline(Config):
    """The content of a pipeline file."""

    description: str = ""
    extract: dict[CacheName, ExtractTable] = Field(min_length=1)
    train: TrainTable
    options: dict[str, Any] = Field(default_factory=dict)
    """`[options]`: options of every training, as `featcache train --set` takes them."""
    objective: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """`[objective.NAME]`: options of one objective; they override `[options]`."""
    variant: dict[CacheName, VariantTable] = Field(default_factory=dict)
    condition: dict[CacheName, dict[str, Any]] = Field(default_factory=dict)
    """`[condition.NAME]`: options of a task, such as data.imbalance. They override `[options]`.
    The whole grid is trained under each condition, and objectives are compared within it."""
    select: dict[str, dict[str, Annotated[tuple[Any, ...], Field(min_length=1)]]] = Field(
        default_factory=dict
    )
    """`[select.NAME]`: values to select from, by option, such as `"objective.w_ent" = [0.3, 1.0]`. The
    default and every combination are trained, and each draw selects one without test labels."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        for name in self.train.caches:
            if name not in self.extract:
                raise ConfigError(
                    f"unknown cache `{name}` in `train.caches`",
                    hint=did_you_mean(name, self.extract),
                )
        for name in self.train.conditions:
            if name not in self.condition:
                raise ConfigError(
                    f"unknown condition `{name}` in `train.conditions`",
                    hint=did_you_mean(name, self.condition) or f"add a table [condition.{name}]",
                )
        for name in self.variant:
            if name in plugins.names("objectives"):
                raise ConfigError(f"`variant.{name}` has the name of an objective", hint="rename the variant")
        if not (self.train.labels_per_class or self.train.num_labels):
            raise ConfigError(
                "`train` has no number of labels",
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
        """Return the objective of a variant, or the objective of that name itself."""
        return self.variant[name].objective if name in self.variant else name

    def options_of(self, name: str, condition: str | None = None) -> dict[str, Any]:
        """Return the training options of an objective or a variant."""
        options = merge(merge({}, self.options), self.condition[condition] if condition else {})
        own = merge({}, self.objective.get(self.objective_of(name), {}))
        if name in self.variant:
            merge(own, self.variant[name].options)
        return merge(options, {"objective": own} if own else {})

    def _conditions(self) -> Sequence[str | None]:
        return self.train.conditions or tuple(self.condition) or (None,)

    def settings(self, name: str, condition: str | None = None) -> dict[str, dict[str, Any]]:
        """Return options by the name of the setting: the default first (named ""), without duplicates."""
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
        """Return the controls that the file does not list."""
        listed = self.train.objectives
        return tuple(name for name in of if self.train.controls and name not in listed)

    def requests(
        self, caches: Mapping[str, Path], with_text: Collection[str] = ()
    ) -> Iterator[tuple[GridCell, TrainRequest]]:
        """Yield the cell and the request of every training.

        `caches` are paths by name, `with_text` the names of the caches that hold class text.
        """
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
                            TrainRequest(
                                caches[cache],
                                objective,
                                seed,
                                labels_per_class=n if kind == "labels_per_class" else None,
                                num_labels=n if kind == "num_labels" else None,
                                options=options,
                            ),
                        )


def _name(pairs: Mapping[str, Any]) -> str:
    """Name a setting by its values: `w_ent=0.3,optim.steps=100`."""
    return ",".join(f"{key.removeprefix('objective.')}={value}" for key, value in pairs.items())


def _located(options: dict[str, Any], caches: Mapping[str, Path]) -> dict[str, Any]:
    """Replace `data.replay` by the path of the cache, if it names a cache of the file."""
    name = options.get("data", {}).get("replay")
    return merge(options, {"data": {"replay": caches[name]}}) if name in caches else options


def load(name: str | os.PathLike[str], overrides: Mapping[str, Any] | None = None) -> Pipeline:
    """Load a TOML file, or the bundled pipeline of that name; raises ConfigError if it is not valid."""
    path = find(name)
    try:
        content = tomllib.loads(path.read_bytes().decode())
    except ValueError as error:
        raise ConfigError(f"{path} is not TOML", got=error) from None
    return Pipeline.parse(merge(content, overrides or {}), str(name))


def find(name: str | os.PathLike[str]) -> Path:
    """Find a pipeline file, given its path or the name of a bundled one."""
    if (path := Location.of(name).path).is_file():
        return path
    if (path := bundled() / f"{name}.toml").is_file():
        return path
    known = sorted(file.stem for file in bundled().glob("*.toml"))
    raise ConfigError(
        "no such pipeline",
        got=name,
        hint=did_you_mean(str(name), known) + ", or give the path of a TOML file",
    )


def bundled() -> Path:
    """Return the folder of bundled pipelines: inside an installed package, beside it in a checkout."""
    inside = Path(str(resources.files("featcache"))) / "pipelines"
    return inside if inside.is_dir() else inside.parents[1] / "pipelines"


def run_pipeline(
    name: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str] | Location | None = None,
    overrides: Mapping[str, Any] | None = None,
    device: str = "auto",
    say: Say = print,
    progress: bool = True,
) -> Study:
    """Extract and train everything in a pipeline file; write to `out` (by default `runs/NAME`).

    The results are `out`/results.md, results.png (a plot of accuracy) and reliability.png. Finished
    trainings are skipped, and unfinished ones are resumed. Raises ConfigError if the file is not valid,
    before anything is computed.
    """
    pipeline, show = load(name, as_tree(overrides)), bar if progress else silent
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
    # Trainings on the same rows share them, so that a cache is opened and loaded once.
    pool = DataPool(resolve(device))
    for number, (cell, request) in enumerate(requests, start=1):
        run = folder / cell.path
        result = run_training(request, run, resume=run.exists(), pool=pool)
        if "test" not in result:
            raise ConfigError(
                f"the cache of {cell.path} has no labelled test split, and a study compares on one",
                hint="extract a split `test` with labels, or use `featcache train`, which estimates",
            )
        accuracy, seconds = 100 * result["test"]["accuracy"], result["seconds"]
        say(f"[{number}/{len(requests)}] {cell.path}: {accuracy:.1f} % in {seconds:.1f} s")
        trained.append((cell, result))
    extraction = None if None in extractions else math.fsum(filter(None, extractions))
    return write_study(trained, extraction, folder, pipeline.train.against)


def _extract(
    name: str, table: ExtractTable, out: Path, device: str, say: Say, progress: MakeProgress
) -> float | None:
    """Extract one cache; return the seconds that the whole extraction took, now or earlier.

    They are kept in a file beside the cache. Return None if the extraction was interrupted.
    """
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
    """Read the seconds of an extraction; None if the file is missing or damaged."""
    try:
        return float(json.loads(path.read_bytes())["seconds"])
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None
