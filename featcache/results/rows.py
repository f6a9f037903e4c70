"""Group finished trainings into rows: one method at one label budget on one cache, over its label draws."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from featcache.results.statistics import CLEAR_PAIRS, Difference, mean_and_std, paired

CONTROLS = ("zero_shot", "knn", "linear", "supervised")
"""Objectives that every method is compared with, on the same label draws."""
CONTROLS_WITH_COLUMN = ("linear", "supervised")
"""Controls that have a column of their own; the best of all four has one more."""
DRAWS_NEEDED = CLEAR_PAIRS
"""Label draws below which an interval is too wide to mean much."""

Result = Mapping[str, Any]
"""The content of a result.json."""


@dataclass(frozen=True, order=True)
class Budget:
    """A number of labels, and how it is counted.

    >>> Budget(4, "per class").label, Budget(24, "in all").label
    ('4/class', '24 in all')
    """

    count: int
    unit: Literal["per class", "in all"]

    @classmethod
    def of(cls, result: Mapping[str, Any]) -> Budget:
        """Read the budget of a result.json or config.json."""
        if per_class := result["labels_per_class"]:
            return cls(per_class, "per class")
        return cls(result["num_labels"], "in all")

    @property
    def label(self) -> str:
        """The budget as tables show it."""
        return f"{self.count}/class" if self.unit == "per class" else f"{self.count} {self.unit}"


class Outcome(NamedTuple):
    """One finished training: the row it belongs to, and its figures."""

    cache: str
    objective: str
    """The name in the table: that of an objective or of a variant."""
    result: Result
    setting: str = ""
    """Options that tell it from other trainings with this objective, for example `w_ent=0.3`."""


class RowKey(NamedTuple):
    """The trainings of a row have this in common, and differ in their seed only."""

    cache: str
    budget: Budget
    objective: str
    setting: str

    @classmethod
    def of(cls, outcome: Outcome) -> RowKey:
        """Return the key of the row that a training belongs to."""
        return cls(outcome.cache, Budget.of(outcome.result), outcome.objective, outcome.setting)

    @property
    def method(self) -> str:
        """The objective and the setting: `twinturbo w_ent=0.3`."""
        return _method(self.objective, self.setting)


@dataclass(frozen=True)
class Row:
    """One method at one label budget on one cache, over its label draws."""

    cache: str
    budget: Budget
    objective: str
    """The name of an objective or of a variant."""
    accuracy: tuple[float, ...]
    """Percent, by seed."""
    nll: float
    """Nats; like `ece` before, and like `nll_scaled` and `ece_scaled` after temperature scaling."""
    ece: float
    nll_scaled: float
    ece_scaled: float
    seconds: float
    differences: Mapping[str, Difference]
    """Paired differences of accuracy (percent) to each control and other reference, by method."""
    best_control: str | None = None
    """The control with the best mean test accuracy at this budget on this cache."""
    auroc: float | None = None
    """Area under the ROC curve of confidence, known against unknown classes, where there are unknown ones."""
    setting: str = ""
    """Options that tell it from other rows with this objective; empty where there are no others."""
    samples: int | None = None
    """The number of test samples."""

    @property
    def method(self) -> str:
        """The objective and the setting: `twinturbo w_ent=0.3`."""
        return _method(self.objective, self.setting)

    def as_dict(self) -> dict[str, Any]:
        """Return the row as values that JSON can hold; an unknown interval is None."""
        mean, std = mean_and_std(self.accuracy)
        return {
            "cache": self.cache,
            "labels": self.budget.label,
            "objective": self.objective,
            "setting": self.setting,
            "draws": len(self.accuracy),
            "samples": self.samples,
            "accuracy": mean,
            "accuracy_std": std,
            "accuracies": list(self.accuracy),
            "differences": {
                method: {
                    "mean": gap.mean,
                    "half_width": gap.half_width if math.isfinite(gap.half_width) else None,
                    "clear": gap.clear,
                }
                for method, gap in self.differences.items()
            },
            "best_control": self.best_control,
            "nll": self.nll,
            "ece": self.ece,
            "nll_scaled": self.nll_scaled,
            "ece_scaled": self.ece_scaled,
            "auroc": self.auroc,
            "seconds": self.seconds,
        }


_BySeed = dict[int, Result]


def group_rows(outcomes: Iterable[Outcome], against: Sequence[str] = ()) -> list[Row]:
    """Group trainings by cache, budget, objective and setting, in the order in which they come.

    Each row is paired with the controls and with the objectives named in `against`, seed by seed.
    """
    groups: dict[RowKey, _BySeed] = {}
    for outcome in outcomes:
        groups.setdefault(RowKey.of(outcome), {})[outcome.result["seed"]] = outcome.result
    return [_row(key, by_seed, groups, (*CONTROLS, *against)) for key, by_seed in groups.items()]


def methods_of(keys: Iterable[RowKey] | Iterable[Row], objectives: Sequence[str]) -> list[str]:
    """Return the methods among `keys` that belong to one of `objectives`, in the order of these."""
    methods: dict[str, list[str]] = {}
    for key in keys:
        methods.setdefault(key.objective, []).append(key.method)
    return list(dict.fromkeys(method for name in objectives for method in methods.get(name, ())))


def percent_correct(result: Result) -> float:
    """Return the test accuracy in percent."""
    return 100 * float(result["test"]["accuracy"])


def _row(key: RowKey, own: _BySeed, groups: Mapping[RowKey, _BySeed], references: Sequence[str]) -> Row:
    peers = {k.method: draws for k, draws in groups.items() if (k.cache, k.budget) == (key.cache, key.budget)}
    keys = [k for k in groups if (k.cache, k.budget) == (key.cache, key.budget)]
    differences = {}
    for method in methods_of(keys, references):
        shared = [seed for seed in own if seed in peers[method]]
        if shared and method != key.method:
            differences[method] = paired(
                [percent_correct(own[seed]) for seed in shared],
                [percent_correct(peers[method][seed]) for seed in shared],
            )
    controls = {
        method: np.mean([percent_correct(result) for result in peers[method].values()])
        for method in methods_of(keys, CONTROLS)
    }
    results = list(own.values())

    def mean(name: str) -> float:
        return float(np.mean([result["test"][name] for result in results]))

    return Row(
        cache=key.cache,
        budget=key.budget,
        objective=key.objective,
        accuracy=tuple(percent_correct(result) for result in results),
        nll=mean("nll"),
        ece=mean("ece"),
        nll_scaled=mean("nll_scaled"),
        ece_scaled=mean("ece_scaled"),
        seconds=float(np.mean([result["seconds"] for result in results])),
        differences=differences,
        best_control=max(controls, key=lambda method: controls[method]) if controls else None,
        auroc=_auroc(results),
        setting=key.setting,
        samples=results[0]["test"].get("samples"),
    )


def _method(objective: str, setting: str) -> str:
    return f"{objective} {setting}" if setting else objective


def _auroc(results: Sequence[Result]) -> float | None:
    if not all("open_set" in result for result in results):
        return None
    return float(np.mean([result["open_set"]["auroc"] for result in results]))
