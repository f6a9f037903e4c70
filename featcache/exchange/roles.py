"""Say what each array of a file is: pooled, tokens, mask, ids, labels or the split; asked for or detected."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from featcache.cache.spec import CLASS_TEXT
from featcache.config import did_you_mean
from featcache.errors import SourceError, option
from featcache.exchange.columns import FLOATS, Column, Columns, Opened
from featcache.sources._labels import LABEL_COLUMNS
from featcache.sources._splits import split_name

Role = Literal["pooled", "tokens", "mask", "ids", "labels", "split"]
USUAL: Mapping[Role, tuple[str, ...]] = {
    "pooled": ("pooled", "embedding", "embeddings", "emb", "image_embeds", "vector", "x", "features"),
    "tokens": ("tokens", "token_embeddings", "patch_embeddings", "features", "x"),
    "mask": ("mask", "token_mask", "attention_mask"),
    "ids": (
        "ids",
        "id",
        "sample_id",
        "sample_ids",
        "file_name",
        "filename",
        "path",
        "key",
        "name",
        "slide_id",
        "idx",
    ),
    "labels": (*LABEL_COLUMNS, "targets"),
    "split": ("split", "subset"),
}
BESIDE: tuple[Role, ...] = ("mask", "ids", "labels", "split")
"""Roles of files that lie beside the embeddings."""
_CLASSES = ("class_names", "classes")
_WORDS = re.compile(r"[/_-]")


class Chosen(NamedTuple):
    """The columns of one file and one split."""

    columns: Mapping[Role, Column]
    keys: Mapping[Role, str]
    """The key of each, for the summary."""
    class_names: tuple[str, ...] | None


def base(key: str) -> str:
    """Return a key without the words that name a split.

    >>> base("train/pooled"), base("x_test"), base("test")
    ('pooled', 'x', 'test')
    """
    words = re.split(r"([/_-])", key)
    kept = [word for word in words if not _WORDS.fullmatch(word) and split_name(word) is None]
    return "_".join(kept) if kept else key


def of_key(key: str) -> Role | None:
    """Return the role that a key usually has."""
    name = base(key).lower()
    return next((role for role, names in USUAL.items() if name in names), None)


def choose(opened: Opened, split: str, asked: Mapping[Role, str], bags: bool) -> dict[str, Chosen]:
    """Choose the columns of a file, by split: those in `asked`, the others by type and usual name.

    Keys may say the split (`train/pooled`, `x_test`); else all belong to `split`. With `bags`, the file is
    one sample and its patches are tokens. Raise SourceError, listing all arrays with their shapes, if one
    that is asked for is missing, or if it is not clear which holds the embeddings.
    """
    groups = {split: dict(opened.columns)} if opened.table or bags else _by_split(opened.columns, split)
    found = {}
    for name, columns in groups.items():
        keys = _features(opened, columns, asked, bags)
        for role in BESIDE:
            key = _named(columns, asked.get(role), role, opened)
            if (
                key is not None
                and key not in keys.values()
                and _fits(columns[key], role, bool(asked.get(role)))
            ):
                keys[role] = key
        chosen = {role: columns[key] for role, key in keys.items()}
        found[name] = Chosen(chosen, keys, opened.class_names or _class_names(columns))
    return found


def is_bag(opened: Opened, asked: Mapping[Role, str]) -> bool:
    """Return True if a file is one sample: `coords` beside `features`, or tokens asked of a matrix."""
    if "tokens" in asked and asked["tokens"] in opened.columns:
        column = opened.columns[asked["tokens"]]
        return len(column.shape) == 1 or (len(column.shape) == 2 and column.rows == 1)
    return "coords" in opened.columns and "features" in opened.columns


def _by_split(columns: Columns, default: str) -> dict[str, dict[str, Column]]:
    """Group arrays by the split in their keys; arrays of no split belong to all of them."""
    splits = {key: next(filter(None, map(split_name, _WORDS.split(key))), None) for key in columns}
    own = {key for key in columns if not key.startswith(f"{CLASS_TEXT}/")}
    with_features = {splits[key] for key in own if _is_feature(columns[key])}
    named = [name for name in dict.fromkeys(splits.values()) if name is not None and name in with_features]
    if not named or None in with_features:
        return {default: dict(columns)}
    return {
        name: {key: column for key, column in columns.items() if splits[key] in (name, None)}
        for name in named
    }


def _features(opened: Opened, columns: Columns, asked: Mapping[Role, str], bags: bool) -> dict[Role, str]:
    """Choose `pooled` and `tokens`, at least one of them."""
    keys: dict[Role, str] = {}
    either = "pooled" in asked or "tokens" in asked
    ranks: Sequence[tuple[Role, int]] = [("pooled", 1), ("tokens", 2)]
    if bags:
        return {"tokens": asked.get("tokens", "features")}
    for role, rank in ranks:
        if role in asked:
            key = _named(columns, asked[role], role, opened)
            assert key is not None
            if not (len(columns[key].shape) == rank and columns[key].kind in FLOATS):
                form = "(N, D)" if rank == 1 else "(N, T, D)"
                raise SourceError(
                    f"{columns[key].where} cannot be {option(role)}",
                    got=columns[key].describe(),
                    expected=f"{form} of float16, bfloat16, float32 or float64",
                )
            keys[role] = key
            continue
        fitting = [
            key for key, column in columns.items() if _is_feature(column) and len(column.shape) == rank
        ]
        fitting = [key for key in fitting if of_key(key) not in BESIDE and key not in asked.values()]
        usual = [key for name in USUAL[role] for key in fitting if base(key).lower() == name]
        if usual or (len(fitting) == 1 and not either):
            keys[role] = (usual or fitting)[0]
        elif len(fitting) > 1 and not either:
            what = f"several arrays of {opened.name} could be the embeddings"
            hint = f"name one by {option('pooled')} or {option('tokens')}"
            raise SourceError(what, got=listed({key: columns[key] for key in fitting}), hint=hint)
    if not keys:
        raise SourceError(
            f"{opened.name} has no embeddings",
            got=listed(columns),
            expected="floating-point numbers of shape (N, D) or (N, T, D)",
        )
    return keys


def _named(columns: Columns, asked: str | None, role: Role, opened: Opened) -> str | None:
    """Return the key that is asked for, or the first with a usual name."""
    if asked is None:
        usual = {base(key).lower(): key for key in reversed(list(columns))}
        return next((usual[name] for name in USUAL[role] if name in usual), None)
    if asked in columns:
        return asked
    found = [key for key in columns if base(key) == asked]
    if found:
        return found[0]
    hint = f"pass another {option(role)} ({did_you_mean(asked, columns)})"
    if role == "labels" and "." in asked:
        hint = f"labels in a table are given to `featcache train`, as its {option('labels', asked)}"
    raise SourceError(f"{opened.name} has no array `{asked}`", got=listed(columns), hint=hint)


def _fits(column: Column, role: Role, asked: bool) -> bool:
    """Return True if a column has the form of its role; raise SourceError if it was asked for."""
    if role == "mask":
        fits, expected = len(column.shape) == 1 and column.kind in ("bool", "int"), "(N, T) bool"
    else:
        single = all(size == 1 for size in column.shape)
        kinds = ("int", "string", "bool") if role != "labels" else ("int", "string", "bool", *FLOATS)
        fits, expected = single and column.kind in kinds, "(N,) texts or whole numbers"
    if asked and not fits:
        raise SourceError(
            f"{column.where} cannot be {option(role)}", got=column.describe(), expected=expected
        )
    return fits


def _is_feature(column: Column) -> bool:
    return column.kind in FLOATS and len(column.shape) in (1, 2) and column.shape[-1] not in (None, 0)


def _class_names(columns: Columns) -> tuple[str, ...] | None:
    for key, column in columns.items():
        if base(key).lower() in _CLASSES and column.kind == "string" and not column.shape:
            return tuple(str(name) for name in column.values())
    return None


def listed(columns: Columns) -> str:
    """List arrays with shapes and types for a message."""
    return ", ".join(f"`{key}` {column.describe()}" for key, column in columns.items()) or "no arrays"
