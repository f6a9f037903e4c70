"""Create what does not depend on features: the group, splits with ids, the class texts.

The `zarr.json` of a group is written last, so that the group is either absent or complete.
"""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from featcache.cache import labels, ledger
from featcache.cache.identity import ELSEWHERE
from featcache.cache.labels import LABELS, LabelTable
from featcache.cache.layout import chunk_rows
from featcache.cache.reader import is_group, read_attributes, read_labels
from featcache.cache.records import FileRecord
from featcache.cache.schema import FeatureArray, feature_arrays
from featcache.cache.spec import CLASS_TEXT, CacheSpec, LayoutSpec, Shapes, SplitSpec
from featcache.cache.storage import PARTIAL, Storage, now
from featcache.cache.zarr_files import METADATA, encode, group, under
from featcache.errors import CacheError, CacheMismatch, option

_VERSIONS = (
    "featcache",
    "numpy",
    "zarr",
    "torch",
    "torchvision",
    "open_clip_torch",
    "timm",
    "transformers",
    "pillow",
)


Samples = NDArray[np.uint64] | None
"""(N,) digests of the content of each sample, if they are known."""


class SplitRows(NamedTuple):
    """Samples of a split, in the order of the source."""

    spec: SplitSpec
    ids: Sequence[str]
    """(N,) unique sample ids."""
    samples: Samples = None


def is_cache(storage: Storage) -> bool:
    """Return True if there is a cache, False if there is nothing; raise CacheError for anything else."""
    if is_group(storage):
        return True
    if set(storage.names()) <= {f"zarr.json{PARTIAL}"} and storage.size("") is None:
        return False
    raise CacheError(
        f"{storage} exists and is not a featcache cache; it is left as it is",
        got="a folder" if storage.size("") is None else "a file",
        expected="a featcache cache, an empty folder or nothing",
        hint=f"choose another place ({option('out')})",
    )


def is_own(storage: Storage) -> bool:
    """Return True for a part of a cache: a group of it, whole or damaged."""
    return storage.name in (CLASS_TEXT, LABELS) or is_group(storage) or ledger.is_begun(storage)


def require_rows(name: str, rows: SplitRows) -> None:
    """Raise CacheError unless the name, ids and labels of a split are valid."""
    if (
        not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name)
        or name in (CLASS_TEXT, LABELS)
        or name.endswith(PARTIAL)
    ):
        raise CacheError(
            "not a name for a split", got=name, expected="letters, digits, - and _, such as train"
        )
    count, ids = rows.spec.rows, rows.ids
    if not count or len(ids) != count:
        raise CacheError(
            f"ids and rows of the split `{name}` differ in number, or there are none",
            got=f"{count} rows, {len(ids)} ids",
            expected="the same number of each, at least one",
        )
    if len(set(ids)) != len(ids):
        seen: set[str] = set()
        twice = next(key for key in ids if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise CacheError(
            f"the sample ids of `{name}` are not unique", got=twice, hint="give each sample its own id"
        )


def described(spec: CacheSpec, shapes: Shapes, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes of the group, which say what the cache is."""
    return {
        "format": spec.format,
        "fingerprint": spec.fingerprint(),
        "spec": spec.model_dump(mode="json"),
        "shapes": shapes.model_dump(mode="json"),
        "provenance": {**provenance, "date": now(), "versions": _versions()},
    }


def create_cache(storage: Storage, spec: CacheSpec, shapes: Shapes, provenance: Mapping[str, Any]) -> None:
    """Create the group."""
    storage.write(group(described(spec, shapes, provenance)))


def block_rows(shapes: Shapes, spec: CacheSpec, layout: LayoutSpec) -> int:
    """Return the rows of a unit, which are those in a shard of the largest array."""
    arrays = feature_arrays(shapes, spec.dtype).values()
    return layout.block_rows(max(array.row_bytes for array in arrays))


def create_split(
    storage: Storage, name: str, rows: SplitRows, spec: CacheSpec, shapes: Shapes, layout: LayoutSpec
) -> None:
    """Create a split of the cache: ids complete, every other array without a shard yet."""
    if any(map(_lacks_digests, map(storage.below, storage.names()))):
        rows = rows._replace(samples=None)  # as the other splits of an older cache
    arrays = feature_arrays(shapes, spec.dtype)
    block = block_rows(shapes, spec, layout)
    views = len(spec.views.names())
    made: dict[str, bytes] = {}
    for array_name, array in arrays.items():
        made |= under(array_name, _sharded(array, rows.spec.rows, views, block))
    axes = ("sample", "view")
    status = encode(shape=(rows.spec.rows, views), chunks=(block, 1), dtype="uint8", dimension_names=axes)
    made |= under("status", status)
    made |= _row_files(rows)
    about = group({"split": rows.spec.model_dump(mode="json"), "arrays": list(arrays)})
    # What a killed creation or overwrite left here: no entry of an old ledger may be believed.
    storage.delete(name)
    split, root = storage.below(name), storage.read(METADATA) or b""
    split.write(made | ledger.contents({None: split_entry(root, name, rows.spec.rows, made | about)}))
    split.write(about)


def restore_rows(cache: Storage, name: str, rows: SplitRows) -> None:
    """Write the ids of an existing split, and its entry in the ledger, again if they are damaged."""
    split = cache.below(name)
    if (entry := ledger.read(split)) is not None and _is_whole(split, entry):
        return
    written = _row_files(rows)
    split.write({key: data for key, data in written.items() if split.read(key) != data})
    metadata = {key: split.read(key) for key in _metadata_keys(split)}
    there = {key: data for key, data in metadata.items() if data is not None}
    root = cache.read(METADATA) or b""
    ledger.write(split, {None: split_entry(root, name, rows.spec.rows, there | written)})


def replace_labels(storage: Storage, new: LabelTable) -> bool:
    """Replace the labels of the splits in `new`; return True if a label has changed."""
    try:
        old = read_labels(storage)
    except CacheError:  # damaged, and now written again
        old = LabelTable()
    merged = old.merged(new)
    changed = merged.digest() != old.digest()
    if changed or merged.chosen != old.chosen:
        labels.write(storage, merged)
    return changed


def needs_class_text(storage: Storage, names: Sequence[str], templates: Sequence[str]) -> bool:
    """Return True if an embedding of a name is missing; raise CacheMismatch for other templates."""
    texts = storage.below(CLASS_TEXT)
    stored = read_attributes(texts)
    if stored is not None and stored["templates"] != list(templates):
        what = f"{texts} was made with other templates"
        raise CacheMismatch(what, got=stored["templates"], expected=list(templates), hint=ELSEWHERE)
    return stored is None or not {*names} <= {*stored["class_names"]}


def write_class_text(
    storage: Storage, embedding: NDArray[np.float32], class_names: Sequence[str], templates: Sequence[str]
) -> None:
    """Write the group of class texts, unless it is there: `embedding` (class, P); names as attributes.

    Raise CacheError if there are not as many names as embeddings, and CacheMismatch for other templates.
    """
    shape = embedding.shape
    if len(embedding) != len(class_names):
        expected = f"{len(class_names)} class names"
        raise CacheError("class texts do not fit", got=len(embedding), expected=expected)
    if not needs_class_text(storage, class_names, templates):
        return
    array = encode(
        np.asarray(embedding, np.float32),
        shape=shape,
        chunks=shape,
        dtype="float32",
        dimension_names=("class", "embedding"),
    )
    storage.delete(CLASS_TEXT)
    texts = storage.below(CLASS_TEXT)
    files = under("embedding", array)
    records = {k: FileRecord.of(data).model_dump() for k, data in files.items() if not k.endswith(METADATA)}
    texts.write(files)
    texts.write(group({"class_names": list(class_names), "templates": list(templates), "files": records}))


def _lacks_digests(split: Storage) -> bool:
    digests, status = (split.size(f"{name}/{METADATA}") for name in ("sample_digest", "status"))
    return digests is None and status is not None


def _sharded(array: FeatureArray, samples: int, views: int, block: int) -> dict[str, bytes]:
    bits = array.kind == "bfloat16"
    return encode(
        shape=(samples, views, *array.row),
        shards=(block, 1, *array.row),
        chunks=(chunk_rows(block, array.row_bytes), 1, *array.row),
        dtype="uint16" if bits else array.kind,
        dimension_names=("sample", "view", *array.axes),
        attributes={"featcache_dtype": array.kind} if bits else {},
    )


def _row_files(rows: SplitRows) -> dict[str, bytes]:
    options: dict[str, Any] = {"shape": (len(rows.ids),), "chunks": (len(rows.ids),)}
    options["dimension_names"] = ("sample",)
    ids = encode(np.array(rows.ids, np.dtypes.StringDType()), dtype="string", fill_value="", **options)
    digests = {} if rows.samples is None else encode(rows.samples, dtype="uint64", **options)
    return under("sample_id", ids) | under("sample_digest", digests)


def split_entry(root: bytes, name: str, rows: int, files: Mapping[str, bytes]) -> ledger.Entry:
    """Return the entry of a split: a record of each small file, and a copy of all metadata.

    `root` is the description of the cache; `files` are by key below the split.
    """
    metadata = {f"{name}/{key}": data for key, data in files.items() if key.endswith(METADATA)}
    about = {METADATA: root, **metadata}
    return ledger.Entry(
        rows=rows,
        failed={},
        files={key: FileRecord.of(data) for key, data in files.items() if not key.endswith(METADATA)},
        copies={key: about[key].decode() for key in sorted(about)},
    )


def _is_whole(split: Storage, entry: ledger.Entry) -> bool:
    found = {key: split.read(key) for key in entry.files}
    return all(data is not None and FileRecord.of(data) == entry.files[key] for key, data in found.items())


def _metadata_keys(split: Storage) -> list[str]:
    """Return the keys of the files that describe a split and its arrays."""
    return [METADATA, *(key for name in split.names() if split.size(key := f"{name}/{METADATA}") is not None)]


def _versions() -> dict[str, str]:
    found = {}
    for name in _VERSIONS:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
