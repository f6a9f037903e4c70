"""Creating what does not depend on any feature: the group, a split with its labels and ids, the class texts.

Each is built beside its place, forced to disk and renamed, so that it is either absent or whole.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast, get_args

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from featcache import files
from featcache.cache import ledger
from featcache.cache.layout import chunk_rows
from featcache.cache.spec import CacheSpec, Shapes, SplitSpec, StorageSpec, array_name, scale_name
from featcache.specs import StoredType, ValueType

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
_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4, "bool": 1, "int8": 1}


def create_cache(path: Path, spec: CacheSpec, shapes: Shapes, provenance: Mapping[str, Any]) -> None:
    """Make the group at `path`, with what the cache is in its attributes."""
    path.mkdir(exist_ok=True)
    described = {
        "format": spec.format,
        "fingerprint": spec.fingerprint(),
        "spec": spec.model_dump(mode="json"),
        "shapes": shapes.model_dump(mode="json"),
        "provenance": {**provenance, "versions": _versions()},
    }
    files.write_atomic(path / "zarr.json", _group_metadata(described))
    files.sync([path.parent])


def create_split(
    path: Path,
    split: SplitSpec,
    ids: Sequence[str],
    labels: NDArray[np.int64],
    views: int,
    shapes: Shapes,
    dtype: StoredType,
    storage: StorageSpec,
) -> None:
    """Make the split at `path`: labels and ids whole, every other array without a shard yet."""
    arrays = feature_arrays(shapes, dtype)
    block = storage.block_rows(max(_row_bytes(shape, kind) for shape, kind, _ in arrays.values()))
    with _staged(path, {"split": split.model_dump(mode="json"), "arrays": list(arrays)}) as folder:
        for name, (shape, kind, axes) in arrays.items():
            rows = chunk_rows(block, _row_bytes(shape, kind))
            _create_array(
                folder / name,
                shape=(split.rows, views, *shape),
                shards=(block, 1, *shape),
                chunks=(rows, 1, *shape),
                dtype="uint16" if kind == "bfloat16" else kind,
                dimension_names=("sample", "view", *axes),
                attributes={"featcache_dtype": kind} if kind == "bfloat16" else {},
            )
        _create_array(
            folder / "status",
            shape=(split.rows, views),
            chunks=(block, 1),
            dtype="uint8",
            dimension_names=("sample", "view"),
        )
        ledger.write({(folder, None): _write_rows(folder, ids, labels)})


def restore_rows(path: Path, ids: Sequence[str], labels: NDArray[np.int64]) -> None:
    """Write the labels and ids of an existing split again where their files are missing or truncated."""
    entry = ledger.read(path)
    if entry is None or ledger.damage(path, entry) is not None:
        entry = _write_rows(path, ids, labels)
        files.sync_tree(path / "label")
        files.sync_tree(path / "sample_id")
        ledger.write({(path, None): entry})


def create_class_text(
    path: Path, embedding: NDArray[np.float32], class_names: Sequence[str], templates: Sequence[str]
) -> None:
    """Make the group of class texts: `embedding` (class, P) float32; names and templates as attributes."""
    described = {"class_names": list(class_names), "templates": list(templates)}
    with _staged(path, described) as folder:
        array = _create_array(
            folder / "embedding",
            shape=embedding.shape,
            chunks=embedding.shape,
            dtype="float32",
            dimension_names=("class", "embedding"),
        )
        array[...] = embedding


def feature_arrays(
    shapes: Shapes, dtype: StoredType
) -> dict[str, tuple[tuple[int, ...], str, tuple[str, ...]]]:
    """The sharded arrays of a split, by name: (row shape, stored type, names of the row's axes)."""
    arrays: dict[str, tuple[tuple[int, ...], str, tuple[str, ...]]] = {}
    for layer in shapes.layers:
        name = array_name(shapes, layer.layer)
        suffix = name.removeprefix("tokens")
        arrays[name] = (layer.tokens, layer.dim), dtype, (f"token{suffix}", f"dim{suffix}")
        if dtype == "int8":
            arrays[scale_name(name)] = (layer.tokens,), "float32", (f"token{suffix}",)
    arrays["pooled"] = (shapes.pooled,), "float16" if dtype == "int8" else dtype, ("embedding",)
    if shapes.mask:
        arrays["token_mask"] = (shapes.layers[0].tokens,), "bool", ("token",)
    return arrays


def view_bytes(shapes: Shapes, dtype: StoredType) -> int:
    """Bytes of one sample in one view, over all of `feature_arrays`."""
    return sum(_row_bytes(shape, kind) for shape, kind, _ in feature_arrays(shapes, dtype).values())


def value_types(shapes: Shapes, dtype: StoredType) -> dict[str, ValueType]:
    """Of those of `feature_arrays` that hold floating point values, which must be finite."""
    kinds = {name: kind for name, (_, kind, _) in feature_arrays(shapes, dtype).items()}
    return {name: cast(ValueType, kind) for name, kind in kinds.items() if kind in get_args(ValueType)}


@contextmanager
def _staged(path: Path, attributes: Mapping[str, Any]) -> Iterator[Path]:
    folder = files.partial(path)
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir()
    (folder / "zarr.json").write_bytes(_group_metadata(attributes))
    yield folder
    files.sync_tree(folder)
    os.replace(folder, path)
    files.sync([path.parent])


def _group_metadata(attributes: Mapping[str, Any]) -> bytes:
    group = {"zarr_format": 3, "node_type": "group", "attributes": {"featcache": attributes}}
    return (json.dumps(group, indent=2) + "\n").encode()


def _create_array(path: Path, *, fill_value: Any = 0, **options: Any) -> Any:
    import zarr

    # Labels may all be the fill value (nothing is labelled): they get their file all the same.
    return zarr.create_array(
        path,
        zarr_format=3,
        compressors=None,
        filters=None,
        fill_value=fill_value,
        overwrite=True,
        config={"write_empty_chunks": True},
        **options,
    )


def _write_rows(folder: Path, ids: Sequence[str], labels: NDArray[np.int64]) -> ledger.Entry:
    axes, shape = ("sample",), (len(ids),)
    label = _create_array(
        folder / "label", shape=shape, chunks=shape, dtype="int64", dimension_names=axes, fill_value=-1
    )
    label[...] = labels
    sample_id = _create_array(
        folder / "sample_id", shape=shape, chunks=shape, dtype="string", dimension_names=axes, fill_value=""
    )
    sample_id[...] = np.array(ids, dtype=np.dtypes.StringDType())
    written = {name: (folder / name).read_bytes() for name in ("label/c/0", "sample_id/c/0")}
    records = {
        name: ledger.FileRecord(bytes=len(data), crc32c=google_crc32c.value(data))
        for name, data in written.items()
    }
    return ledger.Entry(rows=len(ids), failed={}, files=records)


def _row_bytes(shape: tuple[int, ...], kind: str) -> int:
    return math.prod(shape) * _BYTES[kind]


def _versions() -> dict[str, str]:
    found = {}
    for name in _VERSIONS:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
