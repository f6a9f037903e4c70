"""`featcache verify`: reread a cache or a run, and compare every file with what was written."""

from __future__ import annotations

import os
from typing import Any

from featcache.cache import verify as cache_verify
from featcache.cache.adopt import adopt as adopt_cache
from featcache.cache.storage import Folder, held
from featcache.cache.verify import Verification
from featcache.errors import CacheError, ConfigError, option
from featcache.files import human_bytes
from featcache.location import HasPath, Location
from featcache.progress import MakeProgress, bar, silent
from featcache.runs.run import is_run
from featcache.runs.verify import verify_run

_SHOWN = 20
"""Damaged files that are listed."""
Place = str | os.PathLike[str] | HasPath


def verify(place: Place, *, quick: bool = False, adopt: bool = False, progress: bool = True) -> Verification:
    """Compare every file of a cache or a run with what was written.

    Shards are reread whole and compared with the checksums in the ledger. `quick` only looks at their sizes
    and indices; it still reads all small files. `adopt` writes the checksums that a cache of an earlier
    version lacks, once everything that can be compared is whole.

    Raises CacheError if there is no cache or run, or if `adopt` finds damage. Damage is no error otherwise.

    >>> from tempfile import TemporaryDirectory
    >>> from featcache.stages.extract import extract
    >>> with TemporaryDirectory() as folder:
    ...     cache = extract("digits", "open_clip:glyph-clip", f"{folder}/c.zarr", limit=8, tokens="cls")
    ...     shard = cache.path / "train/pooled/c/0/0/0"
    ...     _ = shard.write_bytes(bytes(shard.stat().st_size))
    ...     [damage.file for damage in verify(cache.path, progress=False).damages]
    ['train/pooled/c/0/0/0']
    """
    path, show = Location.of(place).path, bar if progress else silent
    if is_run(path):
        if adopt:
            raise ConfigError(f"{option('adopt', True)} is for caches", got=f"the run {path}")
        return verify_run(path)
    if not adopt:
        return verify_folder(Folder(path), quick, show)
    storage = Folder(path)
    with held(storage.lock()):
        found = verify_folder(storage, False, show)
        if found.damages:
            raise CacheError(
                f"{path} is damaged, so its checksums are not written",
                got=f"{len(found.damages)} damaged files, among them {found.damages[0].file}",
                hint="repair it first: `featcache repair CACHE`",
            )
        adopt_cache(storage)
        return verify_folder(storage, True, silent)


def verify_folder(storage: Folder, quick: bool, show: MakeProgress) -> Verification:
    """Do what `verify` does with a cache; `show` makes the progress bar."""
    total = cache_verify.nbytes_of(storage, quick=quick)
    with show(f"verify {storage.name}", total, "B") as shown:
        return cache_verify.verify_cache(storage, quick=quick, advance=shown.update)


def as_dict(found: Verification) -> dict[str, Any]:
    """Return a verification as values that JSON can hold."""
    return {
        "whole": found.whole,
        "damaged": [damage._asdict() for damage in found.damages],
        "unwritten": found.unwritten,
        "bytes": found.nbytes,
        "files": found.files,
    }


def describe(found: Verification) -> str:
    """Say in a few lines what was found."""
    files = f"{len(found.files)} files, {human_bytes(found.nbytes)} reread"
    lines = [f"whole: {files}" if found.whole else f"not whole: {len(found.damages)} damaged of {files}"]
    for file, got, rows in found.damages[:_SHOWN]:
        lines.append(f"  {file}: {got}" + (f"; it holds {rows}" if rows else ""))
    if len(found.damages) > _SHOWN:
        lines.append(f"  and {len(found.damages) - _SHOWN} more; --json lists all")
    if found.unwritten:
        lines.append(f"  {found.unwritten} units are not written yet: repeat `featcache extract`")
    if found.unknown:
        why = "an earlier version wrote them (for a cache, --adopt adds it), or a training is not finished"
        lines.append(f"  {len(found.unknown)} files have no checksum: {why}")
    return "\n".join(lines)
