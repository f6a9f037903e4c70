"""Write a cache: one writer at a time, unit after unit, each complete before its ledger entry is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from featcache.cache import codec, create, ledger, overwriting
from featcache.cache.commit import Committer, FullUnit
from featcache.cache.create import Samples, SplitRows
from featcache.cache.identity import require_same
from featcache.cache.labels import LabelTable
from featcache.cache.layout import Unit
from featcache.cache.quantise import Quantised, require_std
from featcache.cache.reader import FAILED, WRITTEN, CacheReader, SplitReader
from featcache.cache.spec import CacheSpec, LayoutSpec, Shapes, SplitSpec
from featcache.cache.split_format import STATUS, SplitFormat, Tokens
from featcache.cache.storage import Place, Storage, explained, folder_of, storage_at
from featcache.errors import CacheError


class CacheWriter:
    """The only writer of a cache; a context manager that holds the lock of the cache.

    Nothing is written before the first `split`, so that a model may fail on its first batch. An existing
    cache is continued in its own storage layout. With `overwrite` a new one is written beside it, and takes
    its place at the end of the block, if all begun splits are complete. `provenance` is kept in a new cache.
    The process of a `part`, such as 3-of-8, waits for the others, which begin a cache too.
    Raise CacheMismatch for a cache of another `spec`, CacheError for anything else, or one being written.
    """

    def __init__(
        self,
        place: Place | Storage,
        spec: CacheSpec,
        *,
        layout: LayoutSpec | None = None,
        overwrite: bool = False,
        provenance: Mapping[str, Any] | None = None,
        part: str | None = None,
    ) -> None:
        self._place, self.spec, self._layout = storage_at(place), spec, layout or LayoutSpec()
        self._provenance, self._overwrites = provenance or {}, overwrite
        self._splits: dict[str, SplitWriter] = {}
        self._cache: CacheReader | None = None
        self._lock = self._place.lock(part)
        try:
            with explained(self._place, "the cache"):
                self._place.tidy(create.is_own)
            found = create.is_cache(self._place)
            self._storage = overwriting.written_at(self._place, overwrite)
            if found and not overwrite:
                self._cache = CacheReader.open(self._place)
                require_same(self._place, self._cache.spec, spec)
        except BaseException:
            self.close()
            raise

    @property
    def path(self) -> Path:
        """Folder that is written; raises CacheError if it is none."""
        return folder_of(self._storage)

    def has_split(self, name: str) -> bool:
        """Return True if the split exists, even if it is incomplete."""
        return self._cache is not None and name in self._cache.described

    def split_spec(self, name: str) -> SplitSpec | None:
        """Return the identity of an existing split; None if there is none."""
        return self._cache.split(name).spec if self.has_split(name) and self._cache is not None else None

    def split(
        self, name: str, split: SplitSpec, ids: Sequence[str], shapes: Shapes, samples: Samples = None
    ) -> SplitWriter:
        """Begin or continue a split of unique `ids` (N,); CacheMismatch: other source, geometry or `std`."""
        rows = SplitRows(split, ids, samples)
        create.require_rows(name, rows)
        require_std(self.spec, shapes)
        with explained(self._storage, f"the split {name}"):
            cache = self._cache = self._created(shapes)
            require_same(self._storage, cache.shapes, shapes)
            anew = self._layout if self._overwrites else None
            if self.has_split(name) and overwriting.continues(cache, cache.split(name), split, anew):
                create.restore_rows(self._storage, name, rows)
            else:
                create.create_split(self._storage, name, rows, self.spec, shapes, self._layout)
        writer = self._splits[name] = SplitWriter.open(cache, name)
        return writer

    def label(self, new: LabelTable) -> bool:
        """Replace the labels of the splits in `new`; call it after their `split`.

        Splits keep their labels if `new` has no label at all. Return True if a label has changed.
        """
        with explained(self._storage, "the labels"):
            return create.replace_labels(self._storage, new)

    def class_text(
        self, embedding: NDArray[np.float32], names: Sequence[str], templates: Sequence[str]
    ) -> None:
        """Store the (class, P) embeddings of class names, unless they are there; call it after `split`.

        Raise CacheMismatch if the stored embeddings were made with other templates.
        """
        with explained(self._storage, "the class texts"):
            create.write_class_text(self._storage, embedding, names, templates)

    def needs_class_text(self, names: Sequence[str], templates: Sequence[str]) -> bool:
        """Return True if an embedding of a name is missing; raise CacheMismatch as `class_text` does."""
        return create.needs_class_text(self._storage, names, templates)

    def close(self) -> None:
        """Wait for all commits and release the lock; raise the error of a failed commit."""
        try:
            for split in self._splits.values():
                split.close()
        finally:
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None and self._splits:
                overwriting.finish(self._place, self._splits, overwrite=self._overwrites)
        finally:
            self.close()

    def _created(self, shapes: Shapes) -> CacheReader:
        if self._overwrites and not self._splits:
            self._cache = overwriting.begun(self._storage, self.spec, shapes, self._provenance)
        if self._cache is None:
            create.create_cache(self._storage, self.spec, shapes, self._provenance)
            self._cache = CacheReader.open(self._storage)
        return self._cache


class SplitWriter:
    """The units of one split that are still to write; a context manager that waits for their commits.

    It holds no lock. Several processes may write one split at the same time, while a coordinator holds the
    lock of the cache and gives each process its own units. Writing a unit again gives the same files.
    """

    def __init__(self, cache: CacheReader, split: SplitReader) -> None:
        self.spec, self.shapes = cache.spec, cache.shapes
        self._split, self._format = split, SplitFormat.of(cache, split)
        self._committer = Committer(split.storage)

    @classmethod
    def open(cls, cache: CacheReader, name: str) -> Self:
        """Open a split that a CacheWriter has begun; raise CacheError if there is none."""
        return cls(cache, cache.split(name))

    @property
    def path(self) -> Path:
        """Folder of the split; raises CacheError if its storage is not a folder."""
        return self._split.path

    def missing(self) -> list[Unit]:
        """Wait for commits, and return the units to write: block by block, then view by view.

        These are the units without a ledger entry, or with a missing or truncated file.
        """
        self.wait()
        return self._split.missing()

    def begin(self, unit: Unit) -> UnitWriter:
        """Start writing one unit; use it as a context manager, so that an error leaves nothing behind."""
        return UnitWriter(self._split, self._format, unit, self._committer)

    def wait(self) -> None:
        """Return once every unit handed over is committed; raise the error of a failed commit."""
        self._committer.wait()

    def close(self) -> None:
        """Wait as `wait` does, and end the threads."""
        self._committer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class UnitWriter:
    """Takes the rows of one unit in order, batch by batch; any error discards what was written of it."""

    def __init__(self, split: SplitReader, form: SplitFormat, unit: Unit, committer: Committer) -> None:
        self._split, self._format, self._unit, self._committer = split, form, unit, committer
        self._next = unit.start
        self._files: dict[str, codec.ShardFile] = {}
        self._failed: dict[int, str] = {}
        self._handed_over = False
        with self._discarding_on_error():
            split.storage.delete(ledger.key(unit))
            for name, layout in form.layouts.items():
                key = f"{name}/{layout.unit_key(unit)}"
                self._files[name] = codec.ShardFile(split.storage, key, layout, form.kinds.get(name))

    def append(
        self,
        tokens: Mapping[int, Tokens],
        pooled: NDArray[Any],
        mask: NDArray[np.bool_] | None = None,
        failed: Mapping[int, str] | None = None,
    ) -> None:
        """Write the next b rows: `tokens` by layer (b, T, D), `pooled` (b, P), `mask` (b, T) bool or None.

        `failed` gives the reason by row of the split; those rows are stored as zeros. Values are rounded to
        the type of the cache. Raise CacheError if a shape is not that of the cache, or if a value is not
        finite once stored; the error names its sample.
        """
        failed = failed or {}
        with self._discarding_on_error():
            batch = self._format.batch(tokens, pooled, mask)
            rows = range(self._next, self._next + len(pooled))
            if rows.stop > self._unit.stop:
                raise CacheError("more rows than the unit holds", got=rows, expected=self._unit)
            lost = [row - rows.start for row in rows if row in failed]
            for name, values in batch.items():
                self._write(name, _zeroed(values, lost))
            status = np.full(len(rows), WRITTEN, np.uint8)
            status[lost] = FAILED
            self._files[STATUS].append(status)
            self._failed |= {row: failed[row] for row in rows if row in failed}
            self._next = rows.stop

    def commit(self) -> None:
        """Finish the files, and hand them over to be forced to disk, named, and entered in the ledger.

        This happens while the next unit is written; `SplitWriter.wait` returns when it is done. Raise
        CacheError if rows are missing, or with the error of an earlier commit.
        """
        with self._discarding_on_error():
            if self._next != self._unit.stop:
                got, expected = self._next - self._unit.start, self._unit.stop - self._unit.start
                raise CacheError(
                    f"unit {self._unit} is not full", got=f"{got} rows", expected=f"{expected} rows"
                )
            for file in self._files.values():
                file.finish()
            self._committer.put(FullUnit(self._unit, self._failed, tuple(self._files.values())))
            self._handed_over = True

    def abort(self) -> None:
        """Delete what was written of the unit, unless it has been published."""
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
        unit, view = self._unit, self._split.views[self._unit.view]
        written = sum(file.size for file in self._files.values())
        needed = self._format.nbytes(unit.stop - unit.start) - written
        what = f"rows {unit.start} to {unit.stop - 1} of the view {view}"
        try:
            with explained(self._split.storage, what, needed):
                yield
        except BaseException:
            self.abort()
            raise

    def _write(self, name: str, values: Tokens) -> None:
        for array, exact, stored in self._format.stored(name, values):
            at = self._files[array].append(stored)
            if at is not None:
                row = self._next + at // (exact.size // len(exact))
                sample = f"{self._split.ids[row]} (row {row})"
                raise self._format.not_finite(array, float(exact.reshape(-1)[at]), sample)


def _zeroed(values: Tokens, rows: list[int]) -> Tokens:
    if not rows:
        return values
    if isinstance(values, Quantised):
        tokens, scale = values.values.copy(), values.scale.copy()
        tokens[rows] = scale[rows] = 0
        return Quantised(tokens, scale)
    values = values.copy()
    values[rows] = 0
    return values
