"""Hugging Face style parquet: an image column (struct of bytes and path, or plain bytes) or a text column.

Class names come from the `huggingface` schema metadata (ClassLabel). Files are read one row group at a time.
The groups read last are kept, up to 64 MB. Reading one sample reads its whole group, so groups should be
small (100 to 1,000 rows). Ids are the images' paths if these are unique and relative, else `file:row`.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple

from featcache import limits
from featcache.errors import SampleError, SourceError
from featcache.outside import json_of
from featcache.sources._files import EMBEDDINGS, parsing, printable
from featcache.sources._labels import label_column_of, likely_column
from featcache.sources._origin import Origin
from featcache.sources._paths import expand, left_beside, matches
from featcache.sources._samples import Lazy, Part, assemble
from featcache.sources._splits import group_files
from featcache.sources._table import PATH_COLUMNS, SPLIT_COLUMNS, TEXT_COLUMNS
from featcache.sources.base import Source
from featcache.specs import Modality

_IMAGE_COLUMNS = (*PATH_COLUMNS, "jpg", "jpeg", "png", "webp", "bytes")
_CACHED_BYTES = 64 * 2**20


def match(path: Path) -> bool:
    """Return True for .parquet: a file, a pattern, or a folder with files at most two levels down."""
    return matches(path, ".parquet")


def splits(path: str, label_column: str | None = None) -> dict[str, Source]:
    """Return the splits in the files' names.

    Raise SourceError for a missing column or class, for files that differ in their columns, and for no rows.
    """
    root, files = expand(Path(path), ".parquet")
    layout = _layout(files[0], label_column)
    for file in files[1:]:
        if (other := _layout(file, label_column)) != layout:
            got = f"{other} in {file.name}, {layout} in {files[0].name}"
            raise SourceError("the files do not agree on columns or class names", got=got)
    groups = group_files(root, files)
    parts = {split: _part(root, shards, layout) for split, shards in groups.items()}
    columns = tuple(_open_file(files[0]).schema_arrow.names)
    likely = None if layout.label else likely_column(columns, [layout.column, *SPLIT_COLUMNS])
    notes = left_beside(Path(path), ".parquet")
    origin = Origin("column", layout.label, columns, likely, notes)
    return assemble(layout.modality, parts, layout.class_names, path, origin)


class _Layout(NamedTuple):
    """The columns that hold samples, names and labels."""

    modality: Modality
    column: str
    content: str
    """The leaf with the bytes or the text, for example `image.bytes`."""
    name: str | None
    """The leaf with the images' paths."""
    label: str | None
    class_names: tuple[str, ...] | None


def _layout(file: Path, label_column: str | None) -> _Layout:
    """Find the columns by their types and names; raise SourceError if there is none, or no clear choice."""
    schema = _open_file(file).schema_arrow
    label = label_column_of(schema.names, label_column, file.name)
    features = _features(schema, file)
    names = features.get(label, {}).get("names") if label else None
    classes = None if names is None else tuple(map(str, names))
    kinds = {field.name: _kind(field.type) for field in schema if field.name != label}
    image = _choose(
        [name for name, kind in kinds.items() if kind in ("struct", "bytes")], _IMAGE_COLUMNS, file
    )
    if image is not None and kinds[image] == "struct":
        path = f"{image}.path" if schema.field(image).type.get_field_index("path") >= 0 else None
        return _Layout("image", image, f"{image}.bytes", path, label, classes)
    if image is not None:
        return _Layout("image", image, image, None, label, classes)
    _refuse_paths(kinds, file)
    text = _choose([name for name, kind in kinds.items() if kind == "text"], TEXT_COLUMNS, file)
    if text is not None:
        return _Layout("text", text, text, None, label, classes)
    raise SourceError(
        f"{file.name} has no image and no text column",
        got=", ".join(f"{field.name}: {field.type}" for field in schema),
        expected="struct<bytes, path> or binary for images, string for texts",
        hint=EMBEDDINGS,
    )


def _refuse_paths(kinds: Mapping[str, str | None], file: Path) -> None:
    """Raise SourceError if the only texts are the paths of images: nobody wants these as texts."""
    texts = [name for name, kind in kinds.items() if kind == "text"]
    paths = [name for name in texts if name.lower() in PATH_COLUMNS]
    if paths and not any(name.lower() in TEXT_COLUMNS for name in texts):
        raise SourceError(
            f"{file.name} holds no images, only strings in the column `{paths[0]}`",
            got=", ".join(f"{name}: {kind or 'other'}" for name, kind in kinds.items()),
            expected="struct<bytes, path> or binary for images, string in a column `text` for texts",
            hint="a list of image files is read from CSV: `filelist:NAME.csv`",
        )


def _kind(arrow_type: Any) -> str | None:
    """Return `struct` (of an image), `bytes` or `text` for a column type, else None."""
    import pyarrow.types as types

    if types.is_dictionary(arrow_type):  # as pandas writes categories
        arrow_type = arrow_type.value_type
    if types.is_struct(arrow_type):
        return "struct" if arrow_type.get_field_index("bytes") >= 0 else None
    if str(arrow_type) in ("binary", "large_binary", "binary_view"):  # polars writes views
        return "bytes"
    return "text" if str(arrow_type) in ("string", "large_string", "string_view") else None


def _choose(candidates: list[str], usual: Sequence[str], file: Path) -> str | None:
    """Return the candidate with a usual name, or the only one; raise SourceError if there are several."""
    named = [name for name in usual if name in candidates]
    if not named and len(candidates) > 1:
        raise SourceError(
            f"{file.name} has several columns that may hold the samples",
            got=", ".join(candidates),
            expected=f"one, or one called {', '.join(usual)}",
        )
    return next(iter(named or candidates), None)


def _features(schema: Any, file: Path) -> Mapping[str, Any]:
    """Return the features by column in the `huggingface` metadata, if there are any."""
    text = (schema.metadata or {}).get(b"huggingface")
    if text is None:
        return {}
    try:
        features = json_of(text)["info"]["features"]
    except (ValueError, KeyError, TypeError):
        raise SourceError(
            f"the `huggingface` metadata of {file.name} cannot be read",
            got=repr(text[:80]),
            expected='{"info": {"features": {COLUMN: {"names": [...]}}}}',
        ) from None
    return {name: feature for name, feature in features.items() if isinstance(feature, dict)}


def _part(root: Path, shards: list[Path], layout: _Layout) -> Part:
    ids: list[str] = []
    names: list[str | None] = []
    labels: list[object] = []
    starts = [0]
    for shard in shards:
        file = _open_file(shard)
        rows = file.metadata.num_rows
        relative = shard.relative_to(root).as_posix()
        ids += [printable(f"{relative}:{row}") for row in range(rows)]
        with parsing(shard, "parquet"):
            names += _column(file, layout.name, rows)
            labels += _column(file, layout.label, rows)
        starts.append(starts[-1] + rows)
    if _are_ids(names):
        ids = [printable(str(name)) for name in names]
    return Part(
        ids,
        labels,
        _Reader(
            tuple(starts),
            tuple(Lazy(_Groups, shard, layout.content) for shard in shards),
            layout.name is not None,
        ),
    )


def _column(file: Any, leaf: str | None, rows: int) -> list[Any]:
    """Read all values of one leaf; without a leaf, return None for each row."""
    if leaf is None:
        return [None] * rows
    values = file.read(columns=[leaf], use_threads=False).column(0).to_pylist()
    field = leaf.rpartition(".")[2]
    return [value[field] if isinstance(value, dict) else value for value in values]


def _are_ids(names: Sequence[str | None]) -> bool:
    """Return True if all names are present, different and relative."""
    present = {name for name in names if name}
    absolute = any(
        PurePosixPath(name).is_absolute() or PureWindowsPath(name).is_absolute() for name in present
    )
    return len(present) == len(names) and not absolute


def _open_file(path: Path) -> Any:
    """Open a parquet file; raise SourceError if it cannot be read."""
    import pyarrow.parquet

    with parsing(path, "parquet"):
        return pyarrow.parquet.ParquetFile(path)


@dataclass(frozen=True)
class _Reader:
    """Reads rows over all shards of a split; `starts` has the first row of each shard."""

    starts: tuple[int, ...]
    shards: tuple[Lazy[_Groups], ...]
    has_paths: bool
    """True if the images have a path beside their bytes."""

    def __call__(self, row: int) -> bytes | str:
        shard = bisect_right(self.starts, row) - 1
        value = self.shards[shard]().value(row - self.starts[shard])
        if value is None:
            only = self.has_paths
            what = "the row is empty, or holds only the path of a file" if only else "the row is empty"
            raise SampleError(what, got="null", expected="image bytes or text")
        return value


class _Groups:
    """One open file that keeps the row groups read last in memory."""

    def __init__(self, path: Path, leaf: str) -> None:
        self._file, self._leaf = _open_file(path), leaf
        metadata = self._file.metadata
        self._starts = [0]
        for group in range(metadata.num_row_groups):
            self._starts.append(self._starts[-1] + metadata.row_group(group).num_rows)
        self._groups: OrderedDict[int, Any] = OrderedDict()
        self._lock = threading.Lock()

    def value(self, row: int) -> bytes | str | None:
        """Return the content of a row, from its row group in memory or in the file."""
        group = bisect_right(self._starts, row) - 1
        with self._lock:
            if group not in self._groups:
                self._groups[group] = self._read(group)
                while (
                    len(self._groups) > 1
                    and sum(kept.nbytes for kept in self._groups.values()) > _CACHED_BYTES
                ):
                    self._groups.popitem(last=False)
            self._groups.move_to_end(group)
            column = self._groups[group]
        value: bytes | str | None = column[row - self._starts[group]].as_py()
        return value

    def _read(self, group: int) -> Any:
        import pyarrow
        import pyarrow.compute

        try:
            table = self._file.read_row_group(group, columns=[self._leaf], use_threads=False)
        except Exception as error:  # of whatever kind pyarrow finds for damaged bytes
            limits.require_none(error, f"row group {group}")
            raise SampleError("the row group is damaged", got=f"row group {group}") from None
        column = table.column(0)
        if pyarrow.types.is_struct(column.type):
            column = pyarrow.compute.struct_field(column, "bytes")
        return column.combine_chunks()
