"""The content of a pipeline file, typed and checked: what to extract, what to train, with which options."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Self

import pydantic
from pydantic import Field, model_validator

from featcache import plugins
from featcache.cache.labels import LabelTable
from featcache.cluster import HERE, ClusterOptions
from featcache.config import Config, as_tree, did_you_mean, flatten, merge, nest
from featcache.errors import ConfigError
from featcache.extraction.options import ExtractOptions
from featcache.results.distinguish import CONDITION
from featcache.results.grid import GridCell, folder_of
from featcache.results.rows import CONTROLS
from featcache.specs import Count, Number
from featcache.training.options import TrainOptions
from featcache.training.recipe import parse_options
from featcache.training.request import TrainRequest

CacheName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*$")]
"""A name that can be used as a file name."""
Options = Annotated[dict[str, Any], pydantic.BeforeValidator(as_tree)]
"""Options by name, nested or dotted."""


def _listed(value: Any) -> Any:
    """Make a list of one path."""
    return (value,) if isinstance(value, str | Path) else value


class ExtractTable(ExtractOptions):
    """`[extract.NAME]`: one cache, to be made or there already.

    The other keys are the options of `featcache extract`.
    """

    source: str | None = None
    """What `featcache extract` takes as SOURCE; a path starts at the working directory."""
    model: str | None = None
    """What `featcache extract` takes as `--model`."""
    cache: Path | None = None
    """A cache that is there already, in place of `source` and `model`; it is read and never written."""
    labels: Annotated[tuple[Path, ...], pydantic.BeforeValidator(_listed)] = ()
    """Tables of samples and class names, used instead of the labels of the cache, as in `featcache train
    --labels`; a later file wins."""

    def check(self, name: str) -> None:
        """Raise ConfigError if the table says neither or both of how to make a cache, and where one is."""
        if self.cache is None:
            for key in ("source", "model"):
                if getattr(self, key) is None:
                    raise ConfigError(
                        f"`extract.{name}.{key}` is missing",
                        expected="source and model of a new cache, or cache = PATH of one that is there",
                    )
        elif others := sorted(self.model_fields_set - {"cache", "labels"}):
            raise ConfigError(
                f"`extract.{name}` names a cache that is there, and says how to make one",
                got=f"cache and {', '.join(others)}",
                expected="cache, and labels if they are not those of the cache",
            )


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
    labels_per_class: tuple[Number, ...] = ()
    """Numbers of labels of each class; each is one label budget. Without any budget, all labels are used."""
    num_labels: tuple[Number, ...] = ()
    """Numbers of labels in all; each is one label budget."""
    seeds: tuple[Count, ...] = Field(default=(0,), min_length=1, max_length=100_000)
    """Seeds of label draws and trainings; each method is trained once for each seed."""


class VariantTable(Config):
    """`[variant.NAME]`: an objective with other options, under its own name.

    The other keys are options of the training, as in `[options]`: `optim.lr = 1e-3`.
    """

    model_config = pydantic.ConfigDict(extra="allow")
    objective: str
    """The name of the objective; never that of another variant."""
    options: Options = Field(default_factory=dict)
    """Options of the objective; they override its `[objective.NAME]`. They may also be written as `--set`
    takes them, such as `"optim.lr"`."""

    @model_validator(mode="before")
    @classmethod
    def _nested(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        tree = nest(values)
        if not isinstance(tree.get("options"), Mapping):
            return tree
        own = tree["options"] = as_tree(tree["options"])
        for key in TrainOptions.model_fields:
            # `options = { "optim.lr" = 1e-3 }`: no objective has an option that is such a table.
            if isinstance(found := own.get(key), Mapping):
                del own[key]
                merge(*((own, found) if key == "objective" else (tree, {key: found})))
        return tree

    @property
    def training(self) -> dict[str, Any]:
        """The options of the training; they override `[options]` and `[condition.NAME]`."""
        return dict(self.model_extra or {})

    def check(self, name: str) -> None:
        """Raise ConfigError for a key that is no option, or an option that changes the task."""
        known = [key for key in TrainOptions.model_fields if key != "objective"]
        for key in self.training:
            if key not in known:
                raise ConfigError(
                    f"unknown key `variant.{name}.{key}`",
                    hint=did_you_mean(key, [*VariantTable.model_fields, *known]),
                )
        for key in flatten(self.training):
            if key in {f"data.{task}" for task in CONDITION}:
                raise ConfigError(
                    f"`variant.{name}` changes the task, so that it cannot be compared with the others",
                    got=key,
                    hint="conditions change the task of all objectives: [condition.NAME]",
                )


class Pipeline(Config):
    """The content of a pipeline file."""

    description: str = ""
    """What the study is for; it is printed first."""
    extract: dict[CacheName, ExtractTable] = Field(min_length=1)
    """`[extract.NAME]`: one cache for each table."""
    train: TrainTable
    """`[train]`: the grid of trainings."""
    cluster: ClusterOptions = HERE
    """`[cluster]`: the workers that extract and train, if it is not this process."""
    options: Options = Field(default_factory=dict)
    """`[options]`: options of every training, as `featcache train --set` takes them."""
    objective: dict[str, Options] = Field(default_factory=dict)
    """`[objective.NAME]`: options of one objective; they override `[options]`."""
    variant: dict[CacheName, VariantTable] = Field(default_factory=dict)
    """`[variant.NAME]`: an objective with other options, under its own name."""
    condition: dict[CacheName, Options] = Field(default_factory=dict)
    """`[condition.NAME]`: options of a task, such as data.imbalance. They override `[options]`.
    The whole grid is trained under each condition, and objectives are compared within it."""
    select: dict[str, dict[str, Annotated[tuple[Any, ...], Field(min_length=1)]]] = Field(
        default_factory=dict
    )
    """`[select.NAME]`: values to select from, by option, such as `"objective.w_ent" = [0.3, 1.0]`. The
    default and every combination are trained, and each draw selects one without test labels."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        _refuse_unknown_names(self, (*self.train.objectives, *self._controls(CONTROLS)))
        for name in (*self.objective, *self.variant, *self.train.objectives):
            for condition in self._conditions():
                parse_options(self.objective_of(name), self.options_of(name, condition))
        for name in self.select:
            self.settings(name)
        _refuse_shared_folders({*self.train.objectives, *self._controls(CONTROLS)})
        return self

    def objective_of(self, name: str) -> str:
        """Return the objective of a variant, or the objective of that name itself."""
        return self.variant[name].objective if name in self.variant else name

    def options_of(self, name: str, condition: str | None = None) -> dict[str, Any]:
        """Return the training options of an objective or a variant."""
        options = merge(merge({}, self.options), self.condition[condition] if condition else {})
        own = merge({}, self.objective.get(self.objective_of(name), {}))
        if name in self.variant:
            merge(options, self.variant[name].training)
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
        self,
        caches: Mapping[str, Path],
        with_text: Collection[str] = (),
        labels: Mapping[str, LabelTable] | None = None,
    ) -> Iterator[tuple[GridCell, TrainRequest]]:
        """Yield the cell and the request of every training.

        `caches` are paths by name, `with_text` the names of the caches whose class names are embedded, and
        `labels` the labels of caches that are not the caches' own.
        """
        own = labels or {}
        budgets: list[dict[str, int]] = [{"labels_per_class": n} for n in self.train.labels_per_class]
        budgets += [{"num_labels": n} for n in self.train.num_labels]
        for cache, condition in product(self.train.caches or self.extract, self._conditions()):
            controls = [c for c in CONTROLS if c != "zero_shot" or cache in with_text]
            data = f"{cache}+{condition}" if condition else cache
            names = (*self._controls(controls), *self.train.objectives)
            for budget, name in product(budgets or [{}], names):
                folder = next((f"{kind}={n}" for kind, n in budget.items()), "all_labels")
                objective = self.objective_of(name)
                for setting, chosen in self.settings(name, condition).items():
                    options = _located(chosen, caches)
                    for seed in self.train.seeds:
                        yield (
                            GridCell(data, name, setting, folder, seed),
                            TrainRequest(
                                caches[cache],
                                objective,
                                seed,
                                labels_per_class=budget.get("labels_per_class"),
                                num_labels=budget.get("num_labels"),
                                options=options,
                                labels=own.get(cache),
                            ),
                        )


def _refuse_unknown_names(file: Pipeline, trained: Sequence[str]) -> None:
    """Raise ConfigError for a name that the file does not define, or a table that does not fit its name.

    `trained` are the objectives and variants that are trained.
    """
    for name, table in file.extract.items():
        table.check(name)
    for name in file.train.caches:
        if name not in file.extract:
            raise ConfigError(
                f"unknown cache `{name}` in `train.caches`",
                hint=did_you_mean(name, file.extract),
            )
    for name in file.train.conditions:
        if name not in file.condition:
            raise ConfigError(
                f"unknown condition `{name}` in `train.conditions`",
                hint=did_you_mean(name, file.condition) or f"add a table [condition.{name}]",
            )
    for name in file.variant:
        if name in plugins.names("objectives"):
            raise ConfigError(f"`variant.{name}` has the name of an objective", hint="rename the variant")
        file.variant[name].check(name)
    for key, names in (("select", tuple(file.select)), ("train.against", file.train.against)):
        for name in names:
            if name not in trained:
                raise ConfigError(
                    f"`{key}` names an objective that is not trained: `{name}`",
                    hint=did_you_mean(name, trained),
                )


def _refuse_shared_folders(names: Collection[str]) -> None:
    """Raise ConfigError if the runs of two objectives would share a folder."""
    folders = Counter(map(folder_of, names))
    if twice := [folder for folder, count in folders.items() if count > 1]:
        raise ConfigError(
            "two of `train.objectives` are files of the same name",
            got=twice[0],
            hint="give one of them a [variant.NAME] of its own",
        )


def _name(pairs: Mapping[str, Any]) -> str:
    """Name a setting by its values: `w_ent=0.3,optim.steps=100`."""
    return ",".join(f"{key.removeprefix('objective.')}={value}" for key, value in pairs.items())


def _located(options: dict[str, Any], caches: Mapping[str, Path]) -> dict[str, Any]:
    """Replace `data.replay` by the path of the cache, if it names a cache of the file."""
    name = options.get("data", {}).get("replay")
    return merge(options, {"data": {"replay": caches[name]}}) if name in caches else options
