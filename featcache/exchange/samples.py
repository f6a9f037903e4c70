"""Put the arrays of all files together: the samples of each split, with ids, labels and features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.errors import SourceError, option
from featcache.exchange import columns, find, roles
from featcache.exchange.columns import Column, Opened
from featcache.exchange.options import ImportOptions
from featcache.exchange.roles import Chosen, Role
from featcache.sources._files import printable
from featcache.sources._labels import encode
from featcache.sources._samples import require_unique
from featcache.sources._splits import in_order, split_name


@dataclass
class Part:
    """Samples of one split, of one or several files."""

    ids: list[str] = field(default_factory=list)
    labels: list[object] = field(default_factory=list)
    features: dict[Role, list[Column]] = field(default_factory=dict)
    """`pooled`, `tokens` and `mask`, file by file."""


@dataclass(frozen=True)
class Samples:
    """One split, as it will be stored."""

    name: str
    ids: Sequence[str]
    """(N,) unique."""
    labels: NDArray[np.int64]
    """(N,) class index, or -1."""
    pooled: Column | None
    """(N, P), or None if it is the mean of the tokens."""
    tokens: Column | None
    """(N, T, D), or None if `pooled` is the only token."""
    mask: Column | None

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Found:
    """All splits of a place, and which array was taken for what."""

    splits: Mapping[str, Samples]
    class_names: tuple[str, ...]
    keys: Mapping[Role, str]
    bags: bool


def read_place(place: Path, options: ImportOptions) -> Found:
    """Open all files of a place, and put their samples together; embeddings are not read yet.

    Raise SourceError for files that cannot be read or do not fit together, for arrays that are missing or not
    clear, for a number of ids or labels that is not that of the samples, and for an id that occurs twice.
    """
    asked, files = options.keys(), find.open_all(place)
    bags = all(roles.is_bag(opened, asked) for shards in files.values() for opened in shards)
    every = [opened for shards in files.values() for opened in shards]
    bag_ids = _bag_ids([opened.name for opened in every])
    files = _by_folder(every) if bags else files
    parts: dict[str, Part] = {}
    names: dict[str, tuple[str, ...]] = {}
    keys: dict[Role, str] = {}
    for split, shards in files.items():
        for opened in shards:
            found = roles.choose(opened, split, asked, bags)
            for own, chosen in found.items():
                keys = keys or dict(chosen.keys)
                if bags:
                    _add_bag(parts.setdefault(own, Part()), bag_ids[opened.name], chosen)
                else:
                    _add(parts, own, opened, chosen, several=len(found) > 1)
                if chosen.class_names is not None:
                    names[opened.name] = chosen.class_names
    if len(set(names.values())) > 1:
        got = ", ".join(f"{len(found)} in {file}" for file, found in list(names.items())[:3])
        raise SourceError("the files do not agree on the class names", got=got)
    for name, part in parts.items():
        require_unique(name, part.ids, hint=f"name another array by {option('ids')}")
    labels, classes = encode(
        {name: (part.ids, part.labels) for name, part in parts.items()}, next(iter(names.values()), None)
    )
    splits = {name: _samples(name, part, labels[name], bags) for name, part in parts.items()}
    _require_same(list(splits.values()))
    return Found(in_order(splits), classes, keys, bags)


def _by_folder(bags: Sequence[Opened]) -> dict[str, list[Opened]]:
    """Group bags by the split in the names of their folders: the name of a slide says nothing of it."""
    found: dict[str, list[Opened]] = {}
    for opened in bags:
        folders = reversed(Path(opened.name).parts[:-1])
        split = next(filter(None, map(split_name, folders)), "train")
        found.setdefault(split, []).append(opened)
    return found


def _bag_ids(names: Sequence[str]) -> dict[str, str]:
    """Return the id of each bag: the name of its file, with its folders only where two have the same.

    >>> _bag_ids(["a/slide1.h5", "b/slide2.h5"])
    {'a/slide1.h5': 'slide1', 'b/slide2.h5': 'slide2'}
    """
    stems = {name: Path(name).stem for name in names}
    if len(set(stems.values())) == len(names):
        return stems
    return {name: Path(name).with_suffix("").as_posix() for name in names}


def _add(parts: dict[str, Part], split: str, opened: Opened, chosen: Chosen, *, several: bool) -> None:
    """Add the samples of one file to their splits."""
    roles_of_features: tuple[Role, ...] = ("pooled", "tokens", "mask")
    features = {role: chosen.columns[role] for role in roles_of_features if role in chosen.columns}
    rows = next(iter(features.values())).rows
    if not rows:
        raise SourceError(f"{opened.name} holds no samples", got="0 rows", expected="1 or more")
    for role, column in chosen.columns.items():
        if column.rows != rows:
            raise SourceError(
                f"{column.where} has another length than the embeddings",
                got=f"{column.rows} {role}",
                expected=f"{rows}, as in {next(iter(features.values())).where}",
            )
    single = {role: column.values() for role, column in chosen.columns.items() if role not in features}
    where = f"{opened.name}:{split}" if several else opened.name
    ids = [printable(str(value)) for value in single.get("ids", [f"{where}:{row}" for row in range(rows)])]
    if None in single.get("ids", []):
        got = f"row {single['ids'].index(None)}"
        raise SourceError(f"{chosen.columns['ids'].where} has a row without an id", got=got)
    labels = single.get("labels", [None] * rows)
    for name, chosen_rows in _by_split(single.get("split"), split, rows).items():
        part = parts.setdefault(name, Part())
        part.ids += [ids[row] for row in chosen_rows]
        part.labels += [labels[row] for row in chosen_rows]
        for role, column in features.items():
            part.features.setdefault(role, []).append(columns.pick(column, chosen_rows))


def _add_bag(part: Part, sample_id: str, chosen: Chosen) -> None:
    """Add a file that is one sample."""
    part.ids.append(printable(sample_id))
    part.labels.append(None)
    part.features.setdefault("tokens", []).append(chosen.columns["tokens"])


def _by_split(values: Sequence[object] | None, split: str, rows: int) -> dict[str, NDArray[np.int64]]:
    """Return the rows of each split; a row that names none is of `split`."""
    if values is None:
        return {split: np.arange(rows)}
    names = [split if value in (None, "") else str(value) for value in values]
    known = {name: split_name(name) or name for name in dict.fromkeys(names)}
    of_row = np.array([known[name] for name in names])
    return {name: np.flatnonzero(of_row == name) for name in dict.fromkeys(known.values())}


def _samples(name: str, part: Part, labels: NDArray[np.int64], bags: bool) -> Samples:
    """Join the files of one split."""
    joined: dict[str, Column] = {}
    files = max(map(len, part.features.values()))
    for role, found in part.features.items():
        if len(found) < files:
            raise SourceError(
                f"only some files of `{name}` have {role}", got=found[0].where, expected=f"{files} files"
            )
        joined[role] = columns.bags(found) if bags else columns.join(found)
    samples = Samples(name, part.ids, labels, joined.get("pooled"), joined.get("tokens"), joined.get("mask"))
    tokens, mask = samples.tokens, samples.mask
    if mask is not None and (tokens is None or tokens.shape[0] != mask.shape[0] or None in mask.shape):
        raise SourceError(
            f"{mask.where} does not fit the tokens",
            got=mask.describe(),
            expected="(N, T) beside tokens (N, T, D)" if tokens is None else f"that of {tokens.describe()}",
        )
    return samples


def _require_same(splits: Sequence[Samples]) -> None:
    """Raise SourceError if splits differ in what they have, or in width."""
    first = splits[0]
    for other in splits[1:]:
        for role in ("pooled", "tokens"):
            mine, theirs = getattr(first, role), getattr(other, role)
            if (mine is None) != (theirs is None) or (mine and mine.shape[-1] != theirs.shape[-1]):
                got = " and ".join(
                    f"{'none' if column is None else column.describe()} in `{split.name}`"
                    for column, split in ((mine, first), (theirs, other))
                )
                raise SourceError(f"the splits differ in {role}", got=got, expected="the same width in all")


def dtype_of(splits: Sequence[Samples]) -> str:
    """Return the narrowest kind of number that holds all features exactly."""
    kinds: list[Any] = [c.kind for split in splits for c in (split.pooled, split.tokens) if c is not None]
    return columns.widest(kinds)
