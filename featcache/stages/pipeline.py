"""`featcache run`: one typed file says what to extract and what to train; what is done already is skipped."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Self

import pydantic
from pydantic import Field, model_validator

from featcache.cache.files import explained, write_atomic
from featcache.cache.spec import ValueType, ViewSpec
from featcache.config import Config, did_you_mean, merge
from featcache.errors import ConfigError
from featcache.runs import table
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
    objectives: tuple[str, ...] = Field(min_length=1)
    labels_per_class: tuple[pydantic.PositiveInt, ...] = ()
    num_labels: tuple[pydantic.PositiveInt, ...] = ()
    seeds: tuple[pydantic.NonNegativeInt, ...] = Field(default=(0,), min_length=1)


class Pipeline(Config):
    """A whole pipeline file."""

    description: str = ""
    extract: dict[CacheName, ExtractTable] = Field(min_length=1)
    train: TrainTable
    options: dict[str, Any] = Field(default_factory=dict)
    """`[options]`: what `featcache train --set` takes, for every training."""
    objective: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """`[objective.NAME]`: options of one objective; they win over `[options]`."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        for name in self.train.caches:
            if name not in self.extract:
                raise ConfigError(
                    f"`train.caches` names a cache that is not extracted: `{name}`",
                    hint=did_you_mean(name, self.extract),
                )
        if not (self.train.labels_per_class or self.train.num_labels):
            raise ConfigError(
                "`train` says nothing of labels",
                expected="labels_per_class = [...] (of each class) or num_labels = [...] (in all)",
            )
        for objective in (*self.objective, *self.train.objectives):
            parse_options(objective, self.options_of(objective))
        return self

    def options_of(self, objective: str) -> dict[str, Any]:
        """What a training with this objective gets as its options."""
        own = self.objective.get(objective)
        return merge(merge({}, self.options), {"objective": own} if own else {})

    def requests(self, caches: Mapping[str, Path]) -> Iterator[tuple[str, TrainRequest]]:
        """Every training of the grid, with the name of its run directory."""
        budgets = [("labels_per_class", n) for n in self.train.labels_per_class]
        budgets += [("num_labels", n) for n in self.train.num_labels]
        for cache in self.train.caches or self.extract:
            for kind, n in budgets:
                for objective in self.train.objectives:
                    options = self.options_of(objective)
                    for seed in self.train.seeds:
                        yield (
                            f"{cache}/{objective}/{kind}={n}/seed={seed}",
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


def run_pipeline(
    name: str,
    *,
    out: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    device: str = "auto",
    say: Say = lambda line: None,
    progress: MakeProgress | None = None,
) -> list[table.Row]:
    """Extract and train what a pipeline file asks for under `out` (by default `runs/NAME`); return its table.

    Also writes the table to `out`/results.md. Finished trainings are kept, unfinished ones are resumed.
    Raises ConfigError, before anything is computed, where the file does not fit.
    """
    pipeline = load(name, overrides)
    out = out or Path("runs") / Path(name).stem
    if pipeline.description:
        say(pipeline.description.strip())
    caches = {}
    for key, spec in pipeline.extract.items():
        caches[key] = out / "caches" / f"{key}.zarr"
        _extract(key, spec, caches[key], device, say, progress)
    results = []
    requests = list(pipeline.requests(caches))
    for number, (path, request) in enumerate(requests, start=1):
        result = train(request, out / path, device=device, resume=(out / path).exists())
        accuracy, seconds = 100 * result["test"]["accuracy"], result["seconds"]
        say(f"[{number}/{len(requests)}] {path}: {accuracy:.1f} % in {seconds:.1f} s")
        results.append((path.partition("/")[0], result))
    rows = table.rows(results)
    with explained(out):
        write_atomic(out / "results.md", table.markdown(rows).encode())
    return rows


def _extract(
    name: str, spec: ExtractTable, out: Path, device: str, say: Say, progress: MakeProgress | None
) -> None:
    say(f"extracting {name}: {spec.source} through {spec.model}")
    fields = {key: getattr(spec, key) for key in ExtractTable.model_fields if key != "limit"}
    if not isinstance(spec.limit, Mapping):
        _report(
            extract(ExtractRequest(**fields, limit=spec.limit, out=out, device=device), progress=progress),
            say,
        )
        return
    for split, rows in spec.limit.items():
        own = fields | {"split": split, "limit": rows}
        _report(extract(ExtractRequest(**own, out=out, device=device), progress=progress), say)


def _report(summaries: Mapping[str, Any], say: Say) -> None:
    for split, summary in summaries.items():
        say(f"  {split}: {summary.rows} rows, {summary.computed} views computed in {summary.seconds:.1f} s")
