"""Find the files that a place stands for, their format, and the split that each belongs to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from featcache.cache.spec import CLASS_TEXT
from featcache.errors import SourceError
from featcache.exchange import roles
from featcache.exchange.columns import Opened
from featcache.exchange.described import FILE
from featcache.exchange.formats import arrow, hdf5, numpy_, tensors, zarr_
from featcache.sources._files import printable
from featcache.sources._paths import spelled
from featcache.sources._splits import group_files, in_order, split_name, split_of_file

_BY_SUFFIX: dict[str, Callable[[Path, str], Opened]] = {
    suffix: module.open_file for module in (numpy_, hdf5, tensors, arrow) for suffix in module.SUFFIXES
}
_EXPECTED = (
    ".npy, .npz, .h5, .pt, .safetensors or .parquet, a folder of one of them, "
    "a folder that `datasets` saved, or a Zarr array or group"
)


def open_all(place: Path) -> dict[str, list[Opened]]:
    """Open every file that `place` (a file, a folder or a pattern) stands for; return them by split.

    Files whose names or folders say `train`, `validation` or `test` belong to that split; if none does, all
    are `train`. Raise SourceError if there is nothing, nothing that can be read, or files of several formats.
    """
    if zarr_.match(place):
        return {split_name(place.stem) or "train": [zarr_.open_file(place, place.name)]}
    if arrow.is_saved(place):
        return _saved(place)
    root, files = _files(place)
    suffix = files[0].suffix
    if suffix == ".npy":
        return _arrays(root, files, alone=place.is_file())
    read = _BY_SUFFIX[suffix.lower()]
    groups = in_order(group_files(root, files))
    return {
        split: [read(file, printable(file.relative_to(root).as_posix())) for file in shards]
        for split, shards in groups.items()
    }


def _files(place: Path) -> tuple[Path, list[Path]]:
    """Return the folder that names are relative to, and the files, sorted."""
    if place.is_file():
        files = [place]
    elif place.is_dir():
        below = (file for file in sorted(place.rglob("*")) if not _is_hidden(file.relative_to(place)))
        files = [file for file in below if file.suffix.lower() in _BY_SUFFIX and file.is_file()]
        if (place / FILE).is_file():  # an export that was changed: its class texts are no samples
            files = [file for file in files if CLASS_TEXT not in (file.stem, file.parent.name)]
    else:
        files = spelled(place)
    missing = [str(file) for file in files if not file.exists()]
    if missing:
        raise SourceError(
            "there is no such file or folder", got=", ".join(missing[:5]), hint="check the path"
        )
    kinds = Counter(file.suffix.lower() for file in files)
    unknown = sorted(set(kinds) - set(_BY_SUFFIX))
    if unknown or not kinds:
        got = f"{place} ({', '.join(unknown)})" if unknown else f"{place}, which holds none of them"
        raise SourceError("this is no file of embeddings that can be read", got=got, expected=_EXPECTED)
    if len(kinds) > 1:
        found = ", ".join(f"{count} {suffix}" for suffix, count in kinds.items())
        example = f"{place}/**/*{next(iter(kinds))}" if place.is_dir() else f"*{next(iter(kinds))}"
        raise SourceError(
            "the files are of several formats", got=found, hint=f"name those of one, such as '{example}'"
        )
    root = place if place.is_dir() else files[0].parent if len(files) == 1 else _common(files)
    return root, files


def _is_hidden(file: Path) -> bool:
    """Return True for hidden files, such as the `._name` files of macOS."""
    return any(part.startswith(".") for part in file.parts)


def _common(files: Sequence[Path]) -> Path:
    """Return the nearest folder above all files, spelled as the first one is."""
    every = [set(file.parents) for file in files]
    return next(folder for folder in files[0].parents if all(folder in above for above in every))


def _saved(place: Path) -> dict[str, list[Opened]]:
    found: dict[str, list[Opened]] = {}
    for file, split in arrow.saved_files(place).items():
        name = printable(file.relative_to(place).as_posix())
        found.setdefault(split or split_name(place.name) or "train", []).append(arrow.open_file(file, name))
    return in_order(found)


def _arrays(root: Path, files: Sequence[Path], *, alone: bool) -> dict[str, list[Opened]]:
    """Return `.npy` files as columns of one table for each split, or as shards of one array.

    They are columns if their names are roles: `pooled.npy`, `labels.npy`, `train_ids.npy`. A file that is
    named alone brings those beside it whose names are roles and say the same split.
    """
    if alone:
        split, beside = split_name(files[0].stem), sorted(files[0].parent.glob("*.npy"))
        others = [file for file in beside if file != files[0] and split_name(file.stem) == split]
        files = [files[0], *(file for file in others if roles.of_key(file.stem) in roles.BESIDE)]
    groups: dict[tuple[Path, str | None], list[Path]] = {}
    for file in files:
        groups.setdefault((file.parent, split_of_file(root, file)), []).append(file)
    found: dict[str, list[Opened]] = {}
    for (_, split), own in groups.items():
        keyed = {roles.base(file.stem): file for file in own}
        table = len(keyed) == len(own) and any(roles.of_key(key) in roles.BESIDE for key in keyed)
        tables = [keyed] if table else [{numpy_.BARE: file} for file in own]
        found.setdefault(split or "train", []).extend(_columns(root, files) for files in tables)
    return in_order(found)


def _columns(root: Path, files: Mapping[str, Path]) -> Opened:
    first = next(iter(files.values()))
    columns = {key: numpy_.column(file, _name(root, file)) for key, file in files.items()}
    return Opened(_name(root, first), columns, table=True)


def _name(root: Path, file: Path) -> str:
    return printable(file.relative_to(root).as_posix())
