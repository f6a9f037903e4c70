"""Writing a cache: one writer at a time, unit after unit, each committed whole, its ledger entry last."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from featcache import files
from featcache.cache import codec, create, ledger
from featcache.cache.array import ShardedArray
from featcache.cache.commit import Committer, FullUnit
from featcache.cache.identity import require_same
from featcache.cache.layout import ArrayLayout, Unit
from featcache.cache.lock import WriterLock
from featcache.cache.quantise import quantise, require_std
from featcache.cache.reader import FAILED, WRITTEN, CacheReader, SplitReader, read_attributes
from featcache.cache.spec import CacheSpec, Shapes, SplitSpec, StorageSpec, array_name, scale_name
from featcache.errors import CacheError, CacheMismatch

_CLASS_TEXT = "class_text"


class CacheWriter:
    """The one writer of the cache at `path`; a context manager that holds the cache's lock.

    Nothing is written, and with `overwrite` nothing is deleted, before the first `split`: a model that fails
    on its first batch costs nothing. An existing cache is continued, in its own storage layout. Raises
    CacheMismatch where it was made with another `spec`, CacheError where `path` is something else or another
    process is writing it.
    """

    def __init__(
        self,
        path: str | Path,
        spec: CacheSpec,
        *,
        storage: StorageSpec | None = None,
        overwrite: bool = False,
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        self.path, self.spec = Path(path), spec
        self._storage, self._provenance = storage or StorageSpec(), provenance or {}
        self._committer, self._lock = Committer(), WriterLock(self.path)
        try:
            found = _is_cache(self.path)
            self._replaces = found and overwrite
            self._cache = CacheReader.open(self.path) if found and not overwrite else None
            if self._cache is not None:
                require_same(self.path, self._cache.spec, spec)
        except BaseException:
            self.close()
            raise

    @property
    def shapes(self) -> Shapes | None:
        """The geometry of the existing cache; None before there is one."""
        return None if self._cache is None else self._cache.shapes

    def has_split(self, name: str) -> bool:
        """Whether the split exists, be it only begun."""
        return self._cache is not None and name in self._cache.split_names

    def split(
        self, name: str, split: SplitSpec, ids: Sequence[str], labels: NDArray[np.int64], shapes: Shapes
    ) -> SplitWriter:
        """Begin a split, or continue it.

        `ids` (N,) unique, `labels` (N,). Raises CacheMismatch where the existing split has another source, or
        the cache another geometry (the `std` of int8 tokens included: it is that of the cache's `shapes`).
        """
        _require_rows(name, split, ids, labels)
        require_std(self.spec, shapes)
        path = self.path / name
        with files.explained(path, error=CacheError):
            cache = self._cache = self._created(shapes)
            require_same(self.path, cache.shapes, shapes)
            if self.has_split(name):
                require_same(path, cache.split(name).spec, split)
                create.restore_rows(path, ids, labels)
            else:
                views = len(self.spec.views.names())
                create.create_split(path, split, ids, labels, views, shapes, self.spec.dtype, self._storage)
        return SplitWriter(cache.split(name), self.spec, shapes, ids, self._committer)

    def class_text(self, embedding: NDArray[np.float32], templates: Sequence[str]) -> None:
        """Store the (class, P) embeddings of the class names, once; call it after the first `split`.

        Raises CacheMismatch where embeddings by other templates are there.
        """
        path, names = self.path / _CLASS_TEXT, self.spec.class_names
        if len(embedding) != len(names):
            raise CacheError(
                "class texts do not fit", got=len(embedding), expected=f"{len(names)} class names"
            )
        if self.needs_class_text(templates):
            with files.explained(path, error=CacheError):
                create.create_class_text(path, np.asarray(embedding, np.float32), names, templates)

    def needs_class_text(self, templates: Sequence[str]) -> bool:
        """Whether `class_text` is still to be called; raises CacheMismatch as it does."""
        path = self.path / _CLASS_TEXT
        stored = read_attributes(path)
        if stored is not None and stored["templates"] != list(templates):
            hint = "write to another place with --out, or replace this cache with --overwrite"
            raise CacheMismatch(
                f"{path} was made by other templates",
                got=stored["templates"],
                expected=list(templates),
                hint=hint,
            )
        return stored is None

    def close(self) -> None:
        """Wait for the units handed over, and release the lock; raises what kept one from being committed."""
        try:
            self._committer.close()
        finally:
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _created(self, shapes: Shapes) -> CacheReader:
        if self._cache is not None:
            return self._cache
        if self._replaces:
            _remove(self.path)
            self._replaces = False
        create.create_cache(self.path, self.spec, shapes, self._provenance)
        return CacheReader.open(self.path)


class SplitWriter:
    """The units of one split that are still to write."""

    def __init__(
        self, split: SplitReader, spec: CacheSpec, shapes: Shapes, ids: Sequence[str], committer: Committer
    ) -> None:
        self.path, self.ids, self.spec, self.shapes = split.path, ids, spec, shapes
        self._split, self.committer = split, committer
        self.layouts: dict[str, ArrayLayout] = {
            name: ShardedArray.open(self.path / name).layout for name in (*split.arrays, "status")
        }
        self.kinds = create.value_types(shapes, spec.dtype)
        self.std = {array_name(shapes, a.layer): np.array(a.std, np.float32) for a in shapes.layers if a.std}

    @classmethod
    @contextmanager
    def open(cls, cache: CacheReader, name: str) -> Iterator[SplitWriter]:
        """Write units of an existing split without the cache's lock; waits for their commits at the end."""
        split = cache.split(name)
        with closing(Committer()) as committer:
            yield cls(split, cache.spec, cache.shapes, split.ids, committer)

    def missing(self) -> list[Unit]:
        """Units not in the ledger, or with a missing or truncated file: block by block, then view by view."""
        self.wait()
        return self._split.missing()

    def begin(self, unit: Unit) -> UnitWriter:
        """Start writing one unit; use it as a context manager, so that an error leaves nothing behind."""
        return UnitWriter(self, unit)

    def wait(self) -> None:
        """Return once every unit handed over is committed; raises what kept one from it."""
        self.committer.wait()


class UnitWriter:
    """Takes the rows of one unit in order, batch by batch; any error discards what was written of it."""

    def __init__(self, split: SplitWriter, unit: Unit) -> None:
        self._split, self._unit, self._next = split, unit, unit.start
        self._files: dict[str, codec.ShardFile] = {}
        self._failed: dict[int, str] = {}
        self._handed_over = False
        with self._discarding_on_error():
            ledger.path(split.path, unit).unlink(missing_ok=True)
            for name, layout in split.layouts.items():
                place = split.path / name / layout.unit_key(unit)
                self._files[name] = codec.ShardFile(place, layout, split.kinds.get(name))

    def append(
        self,
        tokens: Mapping[int, NDArray[Any]],
        pooled: NDArray[Any],
        mask: NDArray[np.bool_] | None = None,
        failed: Mapping[int, str] | None = None,
    ) -> None:
        """Write the next b rows: `tokens` by layer (b, T, D), `pooled` (b, P), `mask` (b, T) bool or None.

        `failed` gives the reason by row of the split; those rows are stored as zeros, whatever was passed.
        Values are rounded to the cache's type. Raises CacheError where a shape is not the cache's, or, naming
        the sample, where a value is not finite once stored.
        """
        failed = failed or {}
        with self._discarding_on_error():
            batch = {array_name(self._split.shapes, layer): values for layer, values in tokens.items()}
            batch["pooled"] = pooled
            if mask is not None:
                batch["token_mask"] = mask
            rows = range(self._next, self._next + len(pooled))
            self._require_shapes(batch, rows)
            lost = [row - rows.start for row in rows if row in failed]
            for name, values in batch.items():
                self._write(name, _zeroed(values, lost))
            status = np.full(len(rows), WRITTEN, np.uint8)
            status[lost] = FAILED
            self._files["status"].append(status)
            self._failed |= {row: failed[row] for row in rows if row in failed}
            self._next = rows.stop

    def commit(self) -> None:
        """Finish the files and hand them over to be forced to disk, named, and last entered in the ledger.

        That happens beside the writing of the next unit: `SplitWriter.wait` returns when it is done. Raises
        CacheError where rows are missing, or what kept an earlier unit from being committed.
        """
        with self._discarding_on_error():
            if self._next != self._unit.stop:
                got, expected = self._next - self._unit.start, self._unit.stop - self._unit.start
                raise CacheError(
                    f"unit {self._unit} is not full", got=f"{got} rows", expected=f"{expected} rows"
                )
            for file in self._files.values():
                file.finish()
            self._split.committer.put(FullUnit(self._split.path, self._unit, self._failed, self._files))
            self._handed_over = True

    def abort(self) -> None:
        """Remove what has been written of the unit and not been given its name."""
        for file in self._files.values():
            file.discard()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._handed_over:
            self.abort()

    @contextmanager
    def _discarding_on_error(self) -> Iterator[None]:
        layouts, rows = self._split.layouts.values(), self._unit.stop - self._unit.start
        whole = sum(rows * layout.row_bytes + layout.index_bytes for layout in layouts)
        try:
            with files.explained(
                self._split.path, whole - sum(file.size for file in self._files.values()), error=CacheError
            ):
                yield
        except BaseException:
            self.abort()
            raise

    def _require_shapes(self, batch: Mapping[str, NDArray[Any]], rows: range) -> None:
        made_here = {"status", *map(scale_name, self._split.std)}
        layouts = {name: layout for name, layout in self._split.layouts.items() if name not in made_here}
        got = {name: tuple(values.shape) for name, values in batch.items()}
        expected = {name: (len(rows), *layout.row_shape) for name, layout in layouts.items()}
        if got != expected:
            raise CacheError("a batch does not have the shapes of the cache", got=got, expected=expected)
        if rows.stop > self._unit.stop:
            raise CacheError("more rows than the unit holds", got=rows, expected=self._unit)

    def _write(self, name: str, values: NDArray[Any]) -> None:
        if name in self._split.std:
            values, scale = quantise(values, self._split.std[name])
            self._write(scale_name(name), scale)
        if name not in self._split.kinds:
            self._files[name].append(np.ascontiguousarray(values, self._split.layouts[name].dtype))
            return
        dtype = self._split.kinds[name]
        at = self._files[name].append(codec.to_storage(values, dtype))
        if at is None:
            return
        row, value = self._next + at // (values.size // len(values)), float(values.reshape(-1)[at])
        sample = f"`{name}` of sample {self._split.ids[row]} (row {row})"
        if np.isfinite(value):
            hint = "--dtype bfloat16 or --dtype float32, with --overwrite"
            raise CacheError(
                f"{dtype} cannot hold {value:.4g}, in {sample}", expected="a smaller value", hint=hint
            )
        hint = "look at that sample; or try --amp float32"
        raise CacheError(f"the model gave {value}, in {sample}", expected="finite values", hint=hint)


def _is_cache(path: Path) -> bool:
    """Whether there is a cache at `path`, or nothing; raises CacheError where there is something else."""
    if read_attributes(path) is not None:
        return True
    with files.explained(path, error=CacheError):
        ours = {files.partial(path / "zarr.json").name}
        if not path.exists() or (path.is_dir() and set(os.listdir(path)) <= ours):
            return False
    raise CacheError(
        f"{path} exists and is not a featcache cache; it is left as it is",
        got="a folder" if path.is_dir() else "a file",
        expected="a featcache cache, an empty folder or nothing",
        hint="choose another place with --out",
    )


def _remove(path: Path) -> None:
    """Delete what featcache wrote, the group's own file last: killed on the way, it still is a cache."""
    for entry in list(path.iterdir()):
        if entry.is_dir() and (read_attributes(entry) is not None or entry.name.endswith(files.PARTIAL)):
            shutil.rmtree(entry)
    (path / "zarr.json").unlink()


def _require_rows(name: str, split: SplitSpec, ids: Sequence[str], labels: NDArray[np.int64]) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name) or name == _CLASS_TEXT or name.endswith(files.PARTIAL):
        raise CacheError(
            "not a name for a split", got=name, expected="letters, digits, - and _, such as train"
        )
    if not split.rows or (len(ids), labels.shape) != (split.rows, (split.rows,)):
        got = f"{split.rows} rows, {len(ids)} ids, labels {labels.shape}"
        raise CacheError(
            f"the split `{name}` does not fit together", got=got, expected="as many of each, at least one"
        )
    if len(set(ids)) != len(ids):
        seen: set[str] = set()
        twice = next(key for key in ids if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise CacheError(
            f"the sample ids of `{name}` are not unique", got=twice, hint="give each sample its own id"
        )


def _zeroed(values: NDArray[Any], rows: list[int]) -> NDArray[Any]:
    if not rows:
        return values
    values = values.copy()
    values[rows] = 0
    return values
