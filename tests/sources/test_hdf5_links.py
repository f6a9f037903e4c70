"""HDF5 files that lead to other files: followed within their folder, refused outside of it or if missing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

import featcache as fc
from featcache.errors import SourceError
from featcache.sources import open_source

SHAPE = (6, 4, 4, 3)
Make = Callable[[h5py.File, Path], None]


def raw(file: h5py.File, other: Path) -> None:
    other.with_suffix(".raw").write_bytes(bytes(range(96)) * 3)
    file.create_dataset("images", SHAPE, "uint8", external=[(str(other.with_suffix(".raw")), 0, 288)])


def linked(file: h5py.File, other: Path) -> None:
    _write(other)
    file["images"] = h5py.ExternalLink(str(other), "images")


def virtual(file: h5py.File, other: Path) -> None:
    _write(other)
    _virtual(file, other)


def virtual_of_raw(file: h5py.File, other: Path) -> None:
    part = Path(file.filename).with_name("part.h5")
    with h5py.File(part, "w") as inner:
        raw(inner, other)
    _virtual(file, part)


def _write(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["images"] = np.arange(288, dtype="uint8").reshape(SHAPE)


def _virtual(file: h5py.File, part: Path) -> None:
    layout = h5py.VirtualLayout(SHAPE, "uint8")
    layout[:] = h5py.VirtualSource(str(part), "images", SHAPE)
    file.create_virtual_dataset("images", layout)


def _made(make: Make, folder: Path, other: Path) -> Path:
    folder.mkdir(parents=True)
    with h5py.File(folder / "mine.h5", "w") as file:
        make(file, other)
        file["labels"] = np.arange(6) % 2
    return folder / "mine.h5"


@pytest.mark.parametrize("make", [raw, linked, virtual, virtual_of_raw])
def test_what_lies_in_the_folder_is_read(make: Make, tmp_path: Path) -> None:
    path = _made(make, tmp_path / "in", tmp_path / "in" / "other.h5")
    (samples,) = open_source(str(path)).values()
    assert np.asarray(samples[5]).any()


@pytest.mark.parametrize("make", [raw, linked, virtual, virtual_of_raw])
@pytest.mark.parametrize("through", ["path", "symlink"])
def test_what_lies_elsewhere_is_refused(make: Make, through: str, tmp_path: Path) -> None:
    if through == "path":
        path = _made(make, tmp_path / "in", tmp_path / "other.h5")
    else:
        path = _made(make, tmp_path / "in", tmp_path / "in" / "other.h5")
        for part in path.parent.glob("other.*"):
            part.rename(tmp_path / part.name)
            part.symlink_to(tmp_path / part.name)
    for read in (open_source, lambda place: fc.import_embeddings(place, tmp_path / "c.zarr")):
        with pytest.raises(SourceError, match="out of its folder"):
            read(str(path))
    assert not (tmp_path / "c.zarr").exists()


@pytest.mark.parametrize("make", [raw, linked, virtual])
def test_what_is_missing_is_named(make: Make, tmp_path: Path) -> None:
    path = _made(make, tmp_path / "in", tmp_path / "in" / "other.h5")
    for part in (tmp_path / "in").glob("other.*"):
        part.unlink()
    with pytest.raises(SourceError, match="other"):
        open_source(str(path))
