"""`featcache run`: one typed file says what to extract and what to train; what is done already is skipped."""

from __future__ import annotations

import json
import math
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import product
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Self

import pydantic
from pydantic import Field, model_validator

from featcache import plugins
from featcache.cache.files import explained, write_atomic
from featcache.cache.spec import ValueType, ViewSpec
from featcache.config import Config, did_you_mean, merge
from featcache.errors import ConfigError
from featcache.runs import plot, table
from featcache.stages.extract import ExtractRequest, MakeProgress, extract
from featcache.stages.train import TrainRequest, parse_options, train

Say = Callable[[str], None]
CacheName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*$")]
"""A name that can be part of a path."""


class ExtractTable(Config):
    """`[extract.NAME]`: one cache. Keys are those of `featcache extract`."""

    source: str
    model: str
    split: str | None = None
    views: ViewSpec = ViewSpec()
    tokens: str = "all"
    layers: tuple[int, ...] = (-1,)
    dtype: ValueType = "float16"
    amp: ValueType = "float32"
    limit: pydantic.PositiveInt | dict[str, pydantic.PositiveInt] | None = None
    """Samples of every split, or by split, and then of these splits only."""
    label_column: str | None = None
    shard_size: str = "128MB"
    batch_size: pydantic.PositiveInt = 64
    num_workers: pydantic.NonNegativeInt | None = None


class TrainTable(Config):
    """`[train]`: the grid of trainings, every combination of these lists."""

    caches: tuple[str, ...] = ()
    """Names of `[extract.NAME]`; all of them by default."""
    conditions: tuple[str, ...] = ()
    """Names of `[condition.NAME]`; all of them by default."""
    objectives: tuple[str, ...] = Field(min_length=1)
    """Also names of `[variant.NAME]`."""
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

    def requests(self, caches: Mapping[str, Path]) -> Iterator[tuple[str, TrainRequest]]:
        """Every training of the grid, with its run directory: `CACHE[+CONDITION]/OBJECTIVE/BUDGET/SEED`."""
        budgets = [("labels_per_class", n) for n in self.train.labels_per_class]
        budgets += [("num_labels", n) for n in self.train.num_labels]
        for cache, condition in product(self.train.caches or self.extract, self._conditions()):
            data = f"{cache}+{condition}" if condition else cache
            for (kind, n), name in product(budgets, self.train.objectives):
                objective, options = self.objective_of(name), self.options_of(name, condition)
                for seed in self.train.seeds:
                    yield (
                        f"{data}/{name}/{kind}={n}/seed={seed}",
                        TrainRequest(caches[cache], objective, seed, options=options, **{kind: n}),
                    )


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
    if (path := Path(name)).is_file():
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


@dataclass(frozen=True)
class Study:
    """What a pipeline file came to."""

    rows: list[table.Row]
    extraction: float | None
    """Seconds that all extractions took; None where one was interrupted and went on, or is not known."""
    trainings: list[tuple[str, float]]
    """Objective and seconds of every training."""
    table: Path
    plot: Path

    def describe(self) -> str:
        """The table, what each stage took, and where table and plot are."""
        total = sum(seconds for _, seconds in self.trainings)
        lines = [table.aligned(table.markdown(self.rows))]
        extraction = "in several parts" if self.extraction is None else f"{self.extraction:.1f} s"
        count = f"{len(self.trainings)} training{'s' if len(self.trainings) > 1 else ''}"
        lines.append(f"extraction: {extraction}; {count}: {total:.1f} s")
        if self.extraction is not None:
            lines.append(self._second_experiment(self.extraction))
        return "\n".join([*lines, f"table: {self.table}", f"plot: {self.plot}"])

    def _second_experiment(self, extraction: float) -> str:
        by_objective: dict[str, list[float]] = {}
        for objective, seconds in self.trainings:
            by_objective.setdefault(objective, []).append(seconds)
        slowest, second = max(
            ((name, median(times)) for name, times in by_objective.items()), key=lambda item: item[1]
        )
        first, times_less = extraction + second, 1 + extraction / max(second, 0.001)
        return (
            f"the first experiment with {slowest}: {first:.1f} s, extraction included; "
            f"the second, from the cache: {second:.1f} s, {times_less:.0f} times less"
        )


def run_pipeline(
    name: str,
    *,
    out: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    device: str = "auto",
    say: Say = lambda line: None,
    progress: MakeProgress | None = None,
) -> Study:
    """Extract and train what a pipeline file asks for under `out` (by default `runs/NAME`).

    Also writes the table to `out`/results.md and its plot to `out`/results.png. Finished trainings are kept,
    unfinished ones are resumed. Raises ConfigError, before anything is computed, where the file does not fit.
    """
    pipeline = load(name, overrides)
    out = out or Path("runs") / Path(name).stem
    if pipeline.description:
        say(pipeline.description.strip())
    caches, extractions = {}, []
    for key, spec in pipeline.extract.items():
        caches[key] = out / "caches" / f"{key}.zarr"
        extractions.append(_extract(key, spec, caches[key], device, say, progress))
    results = []
    requests = list(pipeline.requests(caches))
    for number, (path, request) in enumerate(requests, start=1):
        result = train(request, out / path, device=device, resume=(out / path).exists())
        accuracy, seconds = 100 * result["test"]["accuracy"], result["seconds"]
        say(f"[{number}/{len(requests)}] {path}: {accuracy:.1f} % in {seconds:.1f} s")
        data, objective, *_ = path.split("/")
        results.append((data, result | {"objective": objective}))
    study = Study(
        rows=table.rows(results),
        extraction=None if None in extractions else math.fsum(filter(None, extractions)),
        trainings=[(result["objective"], result["seconds"]) for _, result in results],
        table=out / "results.md",
        plot=out / "results.png",
    )
    with explained(out):
        write_atomic(study.table, table.markdown(study.rows).encode())
        write_atomic(study.plot, plot.png(study.rows))
    return study


def _extract(
    name: str, spec: ExtractTable, out: Path, device: str, say: Say, progress: MakeProgress | None
) -> float | None:
    """Seconds of the whole extraction, now or before (kept beside the cache); None if it was interrupted."""
    say(f"extracting {name}: {spec.source} through {spec.model}")
    start, kept = time.perf_counter(), out.with_suffix(".json")
    computed = asked = 0
    fields = {key: getattr(spec, key) for key in ExtractTable.model_fields if key != "limit"}
    limits = spec.limit if isinstance(spec.limit, Mapping) else {None: spec.limit}
    for split, limit in limits.items():
        own = fields | {"split": split or spec.split, "limit": limit}
        summaries = extract(ExtractRequest(**own, out=out, device=device), progress=progress)
        for part, summary in summaries.items():
            say(
                f"  {part}: {summary.rows} rows, {summary.computed} views computed in {summary.seconds:.1f} s"
            )
            computed += summary.computed
            asked += summary.rows * len(spec.views.names())
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
