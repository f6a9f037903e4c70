"""Zarr arrays as files in memory: zarr-python makes and reads them, and never sees where a cache lies.

Every `zarr.json` is sealed, in its attributes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from featcache import seal
from featcache.cache.layout import whole_size
from featcache.cache.records import FileRecord, altered
from featcache.cache.storage import Storage
from featcache.errors import CacheError
from featcache.outside import json_of

METADATA = "zarr.json"
_KINDS = ("string", "int64", "uint64", "float32")
"""Types of the small arrays: ids and digests of samples, labels, class texts."""
_FILLED, _CHUNKS = 10**8, 10**4
"""Most values, and most chunks, of a small array without files."""


def encode(
    values: Any = None, *, fill_value: Any = 0, attributes: Mapping[str, Any] | None = None, **options: Any
) -> dict[str, bytes]:
    """Return the files of an uncompressed Zarr v3 array by key; without `values`, only its `zarr.json`.

    `options` are those of `zarr.create_array`: shape, chunks, shards, dtype, dimension_names, attributes.
    """
    import zarr
    from zarr.storage import MemoryStore

    held: dict[str, Any] = {}
    array = zarr.create_array(
        MemoryStore(held),
        zarr_format=3,
        compressors=None,
        filters=None,
        fill_value=fill_value,
        attributes={seal.KEY: seal.OPEN, **(attributes or {})},
        # Labels may all be the fill value (nothing is labelled): they get their file all the same.
        config={"write_empty_chunks": True},
        **options,
    )
    if values is not None:
        array[...] = values
    made = {key: held.pop(key).to_bytes() for key in list(held)}
    return made | {METADATA: seal.seal(made[METADATA])}


def decode(storage: Storage, records: Mapping[str, FileRecord] | None = None) -> Any:
    """Return the values of a whole array; raise CacheError if there is none, or it is damaged.

    `records` are those of its files, by key below it; files without one are not checked.
    """
    import zarr
    from zarr.core.buffer import default_buffer_prototype
    from zarr.storage import MemoryStore

    buffer = default_buffer_prototype().buffer
    files = dict(_files(storage, ""))
    require_whole(storage, files.get(METADATA))
    _require_sane(storage, files)
    for key, record in (records or {}).items():
        record.require(f"{storage}/{key}", files.get(key))
    held = {key: buffer.from_bytes(data) for key, data in files.items()}
    try:
        return zarr.open_array(MemoryStore(held), mode="r")[...]
    except Exception as error:  # of any kind, as zarr-python does not expect metadata made by an enemy
        got = error if held else "no files"
        hint = (
            "`featcache repair CACHE` writes it again, as does the same `featcache extract` if it is missing"
        )
        raise CacheError(f"the array {storage} is damaged", got=got, hint=hint) from error


def group(attributes: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the file of a Zarr v3 group, with featcache's attributes."""
    held = {seal.KEY: seal.OPEN, "featcache": attributes}
    content = {"zarr_format": 3, "node_type": "group", "attributes": held}
    return {METADATA: seal.seal((json.dumps(content, indent=2) + "\n").encode())}


def is_group(data: bytes | None) -> bool:
    """Return True for the file of a group of featcache, even if it is damaged."""
    return data is not None and (seal.is_whole(data) is not None or attributes_of(data) is not None)


def require_whole(storage: Storage, data: bytes | None, *, own: bool = False) -> None:
    """Raise CacheError if the `zarr.json` of a group or an array is sealed and has other bytes.

    `own`: also if it is not the file of a group of featcache.
    """
    if data is not None and (seal.is_whole(data) is False or (own and attributes_of(data) is None)):
        raise altered(f"{storage}/{METADATA}")


def attributes_of(data: bytes | None) -> dict[str, Any] | None:
    """Return featcache's attributes in the file of a group; None if it has none, or is no such file."""
    try:
        found = None if data is None else json_of(data)
    except ValueError:
        return None
    for key in ("attributes", "featcache"):
        found = found.get(key) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else None


def under(name: str, made: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return files with the keys that they have one level up, where `name` is their folder."""
    return {f"{name}/{key}": data for key, data in made.items()}


def _require_sane(storage: Storage, files: Mapping[str, bytes]) -> None:
    """Raise CacheError if a small array says that it is far larger than its files."""
    if METADATA not in files:
        return
    try:
        about = json_of(files[METADATA])
        shape, chunk = about["shape"], about["chunk_grid"]["configuration"]["chunk_shape"]
        values = math.prod(map(whole_size, shape))
        chunks = math.prod(-(-n // max(whole_size(c), 1)) for n, c in zip(shape, chunk, strict=True))
        kind = about["data_type"]
    except (ValueError, TypeError, KeyError) as error:
        raise CacheError(f"the array {storage} is damaged", got=repr(error)) from None
    held = sum(map(len, files.values()))
    # A file that is missing holds the fill value, in caches of earlier formats.
    if values > max(held, _FILLED) or chunks > _CHUNKS or kind not in _KINDS:
        got = f"{values:,} values of type {kind} in {chunks:,} chunks"
        raise CacheError(f"the array {storage} is damaged", got=got, expected=f"what {held:,} bytes can hold")


def _files(storage: Storage, prefix: str) -> Iterator[tuple[str, bytes]]:
    for name in storage.names(prefix):
        key = f"{prefix}/{name}" if prefix else name
        data = storage.read(key)
        if data is None:
            yield from _files(storage, key)
        else:
            yield key, data
