"""What cannot be imported is refused before anything is written, with the file, the array or the sample."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import h5py
import numpy as np
import pytest
import torch

import featcache as fc

Bring = Callable[..., fc.Cache]


class Evil:
    """Would leave a file if it were unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self._path),)


def no_arrays(path: Path, made: ModuleType) -> Path:
    return Path(made.hdf5(path, {"words": made.LABELS, "coords": np.zeros((9, 2), "int64")}))


def several(path: Path, made: ModuleType) -> Path:
    return Path(made.npz(path, {"one": made.pooled(), "two": made.pooled()}))


def other_widths(path: Path, made: ModuleType) -> Path:
    path.mkdir()
    np.save(path / "a.npy", made.pooled())
    np.save(path / "b.npy", made.pooled()[:, :5])
    return path


def other_widths_by_split(path: Path, made: ModuleType) -> Path:
    return Path(made.npz(path, {"x_train": made.pooled(), "x_test": made.pooled()[:, :5]}))


def ids_twice(path: Path, made: ModuleType) -> Path:
    return Path(made.npz(path, {"emb": made.pooled(), "ids": [*made.IDS[:-1], made.IDS[3]]}))


def labels_too_few(path: Path, made: ModuleType) -> Path:
    return Path(made.hdf5(path, {"emb": made.pooled(), "label": made.LABELS[:-1]}))


def not_finite(path: Path, made: ModuleType) -> Path:
    values = made.pooled()
    values[17, 2] = np.nan
    return Path(made.npz(path, {"emb": values, "ids": made.IDS}))


def missing_value(path: Path, made: ModuleType) -> Path:
    return Path(made.parquet(path, {"emb": [[1.0, 2.0], None, [3.0, 4.0]]}))


def rows_of_other_width(path: Path, made: ModuleType) -> Path:
    return Path(made.parquet(path, {"emb": [[1.0, 2.0], [1.0, 2.0, 3.0]]}))


def objects(path: Path, made: ModuleType) -> Path:
    np.save(path.with_suffix(".npy"), np.array([{1: 2}], object), allow_pickle=True)
    return path.with_suffix(".npy")


def objects_in_npz(path: Path, made: ModuleType) -> Path:
    np.savez(path.with_suffix(".npz"), emb=np.array([{1: 2}], object))
    return path.with_suffix(".npz")


def pickle_with_code(path: Path, made: ModuleType) -> Path:
    torch.save({"emb": Evil(path.parent / "harm")}, path.with_suffix(".pt"))
    return path.with_suffix(".pt")


def empty_file(path: Path, made: ModuleType) -> Path:
    path.with_suffix(".npy").touch()
    return path.with_suffix(".npy")


def empty_tensor_file(path: Path, made: ModuleType) -> Path:
    path.with_suffix(".pt").touch()
    return path.with_suffix(".pt")


def no_rows(path: Path, made: ModuleType) -> Path:
    np.save(path.with_suffix(".npy"), made.pooled()[:0])
    return path.with_suffix(".npy")


def truncated(path: Path, made: ModuleType) -> Path:
    file = Path(made.hdf5(path, {"emb": made.pooled()}))
    file.write_bytes(file.read_bytes()[:1000])
    return file


def other_zip(path: Path, made: ModuleType) -> Path:
    with zipfile.ZipFile(path.with_suffix(".npz"), "w") as archive:
        archive.writestr("readme.txt", "no arrays")
    return path.with_suffix(".npz")


def no_zip(path: Path, made: ModuleType) -> Path:
    path.with_suffix(".npz").write_bytes(b"no archive")
    return path.with_suffix(".npz")


def dangling(path: Path, made: ModuleType) -> Path:
    with h5py.File(path.with_suffix(".h5"), "w") as file:
        file["emb"] = h5py.SoftLink("/nowhere")
    return path.with_suffix(".h5")


def virtual_without_parts(path: Path, made: ModuleType) -> Path:
    made.hdf5(path.with_name("part"), {"emb": made.pooled()})
    layout = h5py.VirtualLayout(made.pooled().shape, "float32")
    layout[:] = h5py.VirtualSource("part.h5", "emb", made.pooled().shape)
    with h5py.File(path.with_suffix(".h5"), "w") as file:
        file.create_virtual_dataset("emb", layout)
    path.with_name("part.h5").unlink()
    return path.with_suffix(".h5")


def several_formats(path: Path, made: ModuleType) -> Path:
    path.mkdir()
    np.save(path / "a.npy", made.pooled())
    made.hdf5(path / "a", {"emb": made.pooled()})
    return path


def empty_folder(path: Path, made: ModuleType) -> Path:
    path.mkdir()
    return path


def nothing(path: Path, made: ModuleType) -> Path:
    return path / "nowhere.npy"


def text_file(path: Path, made: ModuleType) -> Path:
    path.with_suffix(".csv").write_text("a,b\n1,2\n")
    return path.with_suffix(".csv")


def saved_without_its_files(path: Path, made: ModuleType) -> Path:
    made.saved(path, {"emb": made.pooled()})
    (path / "data-00001-of-00002.arrow").unlink()
    return path


CASES: list[tuple[Callable[[Path, ModuleType], Path], list[str]]] = [
    (no_arrays, ["mine.h5", "`coords` (9, 2) int"]),
    (several, ["mine.npz", "`one` (30, 6) float32", "`two`", "`pooled`"]),
    (other_widths, ["a.npy", "b.npy", "(30, 5)"]),
    (other_widths_by_split, ["train", "test", "(30, 5)"]),
    (ids_twice, ["sample 3", "3 and 29"]),
    (labels_too_few, ["`label` in mine.h5", "29", "30"]),
    (not_finite, ["nan", "sample 17", "row 17"]),
    (missing_value, ["`emb` in mine.parquet", "row 1"]),
    (rows_of_other_width, ["`emb` in mine.parquet", "3"]),
    (objects, ["mine.npy", "pickled"]),
    (objects_in_npz, ["`emb` in mine.npz", "pickled"]),
    (pickle_with_code, ["mine.pt", "mkdir"]),
    (empty_file, ["mine.npy"]),
    (empty_tensor_file, ["mine.pt"]),
    (no_rows, ["mine.npy", "0 rows"]),
    (truncated, ["mine.h5"]),
    (other_zip, ["mine.npz", "no arrays"]),
    (no_zip, ["mine.npz"]),
    (dangling, ["`emb`", "/nowhere"]),
    (virtual_without_parts, ["`emb` in mine.h5", "part.h5"]),
    (several_formats, ["1 .npy", "1 .h5"]),
    (empty_folder, ["mine", ".npz"]),
    (nothing, ["nowhere.npy"]),
    (text_file, [".csv", ".parquet"]),
    (saved_without_its_files, ["data-00001-of-00002.arrow"]),
]


@pytest.mark.parametrize(("make", "facts"), CASES, ids=[make.__name__ for make, _ in CASES])
def test_it_is_refused(
    make: Callable[[Path, ModuleType], Path], facts: list[str], tmp_path: Path, made: ModuleType, bring: Bring
) -> None:
    path = make(tmp_path / "mine", made)
    with pytest.raises(fc.FeatcacheError) as error:
        bring(path)
    assert [fact for fact in facts if fact not in str(error.value)] == [], str(error.value)
    assert not (tmp_path / "cache.zarr").exists()
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    ("options", "facts"),
    [
        ({"pooled": "embs"}, ["`embs`", "did you mean `emb`?", "`emb` (30, 6) float32"]),
        ({"pooled": "label"}, ["`label` in mine.npz", "(N, D)"]),
        ({"tokens": "emb"}, None),
        ({"labels": "emb"}, ["mine.npz has no embeddings", "(30, 6) float32"]),
        ({"dtype": "float8"}, ["float8", "bfloat16"]),
        ({"max_tokens": 0}, ["max_tokens"]),
        ({"max_tokens": 3}, ["max_tokens=3", "(30, 6) float32"]),
        ({"labels": "labels.csv"}, ["`featcache train`", "labels='labels.csv'"]),
    ],
)
def test_a_wrong_option_is_refused(
    options: dict[str, Any], facts: list[str] | None, tmp_path: Path, made: ModuleType, bring: Bring
) -> None:
    path = made.npz(tmp_path / "mine", {"emb": made.pooled(), "label": made.LABELS})
    if facts is None:  # a matrix as tokens: the whole file is one sample
        assert bring(path, **options)["train"].rows == 1
        return
    with pytest.raises(fc.FeatcacheError) as error:
        bring(path, **options)
    assert [fact for fact in facts if fact not in str(error.value)] == [], str(error.value)
    assert not (tmp_path / "cache.zarr").exists()


def test_a_type_too_narrow_is_refused(tmp_path: Path, made: ModuleType, bring: Bring) -> None:
    path = made.npz(tmp_path / "mine", {"emb": made.pooled() * 1e6})
    with pytest.raises(fc.FeatcacheError, match="float16 cannot hold"):
        bring(path, dtype="float16")
    assert bring(path).spec.dtype == "float32"


@pytest.mark.parametrize(
    "form", ["npy_folder", "npz", "hdf5", "pt", "safetensors", "parquet_lists", "saved", "zarr_3"]
)
def test_extract_says_how_embeddings_come_in(form: str, tmp_path: Path, made: ModuleType) -> None:
    """Which a user tries first."""
    arrays = {"ids": made.IDS, "labels": made.LABELS} if form == "safetensors" else {}
    path = made.FORMATS[form](tmp_path / "mine", {"emb": made.pooled(), **arrays})
    with pytest.raises(fc.FeatcacheError) as error:
        fc.extract(path / "emb.npy" if form == "npy_folder" else path, "timm:test_vit/random", tmp_path / "c")
    assert "`featcache import`" in str(error.value)
