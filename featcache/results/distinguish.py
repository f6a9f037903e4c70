"""Name caches and settings by what tells them apart: different ones never share a name."""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

from featcache.config import flatten
from featcache.results.run_folders import FinishedRun

CONDITION = ("train", "test", "imbalance", "unknown_classes", "missing_classes")
"""Options `data.NAME` that define the task; runs are compared only where these are equal."""
_CONDITION_KEYS = tuple(f"options.data.{name}" for name in CONDITION)
_COLUMNS = ("objective", "seed", "labels_per_class", "num_labels", "cache", "splits")
"""Keys of a configuration that rows have columns for."""
_PLAIN = re.compile(r"(?!(?:true|false|null|NaN|Infinity)$)[A-Za-z][\w.:/*-]*", re.ASCII)
"""Strings that need no quotes beside other values."""


class Data(NamedTuple):
    """The rows that a run was trained and tested on, and the task that was made of them."""

    fingerprint: str
    splits: str
    """JSON of the splits by which it differs from other caches with this fingerprint; else `{}`."""
    condition: str
    """Options that define the task, where they differ between runs on this cache; else empty."""


def name_data(runs: Sequence[FinishedRun]) -> list[str]:
    """Return the name of the cache of each run, and the condition where there are several: `photos`.

    The name is that of the cache's folder. Where it is not recorded, it is the name of the encoder and the
    start of the fingerprint. If two caches have the same name, the start of the fingerprint is added. If that
    is also the same, the start of a digest of the splits is added.
    """
    data = _data(runs)
    folders: dict[Data, str] = {}
    for key, run in zip(data, runs, strict=True):
        if run.cache:
            folders.setdefault(key._replace(condition=""), PurePath(run.cache).name.removesuffix(".zarr"))
    candidates = {
        key: _names(key, folders.get(key._replace(condition=""), ""), run.result.get("encoder", "cache"))
        for key, run in zip(data, runs, strict=True)
    }
    names = _unique(candidates)
    return [names[key] for key in data]


def name_settings(runs: Sequence[FinishedRun]) -> list[str]:
    """Return for each run the options that differ between the runs of its objective: `w_ent=0.3,cv=2`."""
    trees = []
    for run in runs:
        tree = flatten({key: value for key, value in run.config.items() if key not in _COLUMNS})
        trees.append({k: v for k, v in tree.items() if k not in _CONDITION_KEYS and v != {}})
    return [
        ",".join(f"{key.removeprefix('options.').removeprefix('objective.')}={_text(v)}" for key, v in own)
        for own in _differing(trees, [run.config["objective"] for run in runs])
    ]


def _data(runs: Sequence[FinishedRun]) -> list[Data]:
    splits: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for run in runs:
        for name, spec in run.config["splits"].items():
            splits[run.config["cache"], name].add(_json(spec))
    caches = []
    for run in runs:
        cache = run.config["cache"]
        own = {name: spec for name, spec in run.config["splits"].items() if len(splits[cache, name]) > 1}
        caches.append((cache, _json(own)))
    options = [flatten(run.config) for run in runs]
    trees = [{key: tree.get(key) for key in _CONDITION_KEYS} for tree in options]
    return [
        Data(*cache, ",".join(f"{key.rpartition('.')[2]}={_text(value)}" for key, value in own))
        for cache, own in zip(caches, _differing(trees, caches), strict=True)
    ]


def _differing(
    trees: Sequence[Mapping[str, Any]], groups: Sequence[Hashable]
) -> Iterator[list[tuple[str, Any]]]:
    """Yield for each tree its values of the keys that differ within its group; a missing one is None."""
    values: defaultdict[tuple[Hashable, str], set[str]] = defaultdict(set)
    keys = sorted({key for tree in trees for key in tree})
    for tree, group in zip(trees, groups, strict=True):
        for key in keys:
            values[group, key].add(_json(tree.get(key)))
    for tree, group in zip(trees, groups, strict=True):
        yield [(key, tree.get(key)) for key in keys if len(values[group, key]) > 1]


def _names(data: Data, folder: str, encoder: str) -> list[str]:
    """Return possible names, short ones first; no other data can have the last one."""
    condition = f"+{data.condition}" if data.condition else ""
    cache = f"{folder or encoder} {data.fingerprint[:8]}"
    return [
        *([folder + condition] if folder else []),
        cache + condition,
        f"{cache} {_digest(data.splits)[:8]}{condition}",
        f"{folder or encoder} {_digest(_json(data))}",
    ]


def _unique(candidates: Mapping[Data, Sequence[str]]) -> dict[Data, str]:
    """Choose for each data the first name that is no candidate of another."""
    owners: defaultdict[str, set[Data]] = defaultdict(set)
    for data, names in candidates.items():
        for name in names:
            owners[name].add(data)
    return {
        data: next(name for name in names if len(owners[name]) == 1) for data, names in candidates.items()
    }


def _text(value: Any) -> str:
    return value if isinstance(value, str) and _PLAIN.fullmatch(value) else _json(value)


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
