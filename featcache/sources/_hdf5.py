"""Find the datasets of an HDF5 file, through links, and never outside the folder of the file.

HDF5 itself follows links, raw files and virtual datasets to any file of the machine, and gives fill values
for parts that are missing.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from featcache.errors import SourceError

_DEEPEST = 16
"""Groups within groups, or files within files; a link to a group above itself would never end."""


def datasets(file: Any) -> Iterator[tuple[str, Any]]:
    """Yield every dataset of an open file by its path, also those that links lead to.

    Raise SourceError for a link that leads nowhere, and for data that are missing or lie in other folders.
    """
    path = Path(file.filename).absolute()
    folder = path.parent.resolve()
    for key, dataset in _below(file, folder, "", 0):
        _require_parts(dataset, folder, f"`{key}` in {path.name}", 0)
        yield key, dataset


def _below(group: Any, folder: Path, prefix: str, depth: int) -> Iterator[tuple[str, Any]]:
    import h5py

    if depth == _DEEPEST:
        return
    for key in group:
        name = f"{prefix}{key}"
        link = group.get(key, getlink=True)
        if isinstance(link, h5py.ExternalLink):
            _require_inside(link.filename, folder, f"`{name}` in {Path(group.file.filename).name}")
        try:
            item = group[key]
        except (KeyError, OSError):
            target = f"{getattr(link, 'filename', '')}{getattr(link, 'path', '')}"
            raise SourceError(
                "a link in the HDF5 file leads nowhere", got=f"`{name}` -> {target}", hint="bring its file"
            ) from None
        if isinstance(item, h5py.Dataset):
            yield name, item
        elif isinstance(item, h5py.Group):
            yield from _below(item, folder, f"{name}/", depth + 1)


def _require_parts(dataset: Any, folder: Path, name: str, depth: int) -> None:
    """Check the files that a dataset is put together from, and what these are put together from."""
    import h5py

    for file, _, _ in dataset.external or ():
        _require_there(_require_inside(file, folder, name), name)
    for source in dataset.virtual_sources() if dataset.is_virtual else ():
        if source.file_name == ".":
            continue
        found = _require_inside(source.file_name, folder, name)
        if "%" in source.file_name:  # a pattern for files that may come later
            continue
        _require_there(found, name)
        if depth == _DEEPEST:
            raise SourceError(f"{name} is put together from files within files without end", got=found)
        try:
            with h5py.File(found, "r") as part:
                if (inner := part.get(source.dset_name)) is not None:
                    _require_parts(inner, folder, name, depth + 1)
        except OSError as error:
            raise SourceError(f"{name} is put together from files that cannot be read", got=error) from None


def _require_inside(file: str, folder: Path, name: str) -> Path:
    """Return where a file is; raise SourceError if it is not below the folder of the HDF5 file."""
    # HDF5 looks for some of these beside the file, and for some in the current folder.
    found = [place for place in (folder / file, Path.cwd() / file) if place.exists()]
    for place in found or [folder / file]:
        if not place.resolve().is_relative_to(folder):
            raise SourceError(
                f"{name} leads out of its folder, which is not followed",
                got=file,
                expected=f"a file below {folder}",
                hint="copy the data into the file, or beside it",
            )
    return found[0] if found else folder / file


def _require_there(file: Path, name: str) -> None:
    if not file.is_file():
        raise SourceError(f"{name} is put together from other files, which are missing", got=file)
