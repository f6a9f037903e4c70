"""Small embeddings, and a function for each format that writes them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import zarr
from numpy.typing import NDArray
from safetensors.torch import save_file

ROWS, DIM, TOKENS = 30, 6, 4
IDS = [f"sample {row}" for row in range(ROWS)]
NAMES = ["cat", "dog, the", "🦉"]
LABELS = [NAMES[row % 3] for row in range(ROWS)]

Arrays = Mapping[str, Any]


def pooled(rows: int = ROWS, dtype: str = "float32") -> NDArray[Any]:
    return np.random.default_rng(rows).standard_normal((rows, DIM)).astype(dtype)


def tokens(rows: int = ROWS, dtype: str = "float32", count: int = TOKENS) -> NDArray[Any]:
    return np.random.default_rng(rows + 1).standard_normal((rows, count, DIM)).astype(dtype)


def npz(path: Path, arrays: Arrays) -> Path:
    np.savez(path.with_suffix(".npz"), **{key: np.array(value) for key, value in arrays.items()})
    return path.with_suffix(".npz")


def npz_compressed(path: Path, arrays: Arrays) -> Path:
    values = {key: np.array(value) for key, value in arrays.items()}
    np.savez_compressed(path.with_suffix(".npz"), **values)
    return path.with_suffix(".npz")


def npz_fortran(path: Path, arrays: Arrays) -> Path:
    values = {key: np.asfortranarray(np.array(value)) for key, value in arrays.items()}
    np.savez(path.with_suffix(".npz"), **values)
    return path.with_suffix(".npz")


def npy_folder(path: Path, arrays: Arrays) -> Path:
    path.mkdir()
    for key, value in arrays.items():
        np.save(path / f"{key}.npy", np.array(value))
    return path


def hdf5(path: Path, arrays: Arrays) -> Path:
    with h5py.File(path.with_suffix(".h5"), "w") as file:
        for key, value in arrays.items():
            file[key] = value
    return path.with_suffix(".h5")


def hdf5_big_endian(path: Path, arrays: Arrays) -> Path:
    swapped = {
        key: value.astype(value.dtype.newbyteorder(">")) if isinstance(value, np.ndarray) else value
        for key, value in arrays.items()
    }
    return hdf5(path, swapped)


def _tensors(arrays: Arrays) -> dict[str, Any]:
    return {
        key: torch.from_numpy(value) if isinstance(value, np.ndarray) else value
        for key, value in arrays.items()
    }


def pt(path: Path, arrays: Arrays) -> Path:
    torch.save(_tensors(arrays), path.with_suffix(".pt"))
    return path.with_suffix(".pt")


def pt_of_old_torch(path: Path, arrays: Arrays) -> Path:
    torch.save(_tensors(arrays), path.with_suffix(".pt"), _use_new_zipfile_serialization=False)
    return path.with_suffix(".pt")


def safetensors(path: Path, arrays: Arrays) -> Path:
    """Texts cannot be tensors: ids are JSON in bytes, labels are indices of names in the header."""
    values = dict(arrays)
    values["ids_json"] = np.frombuffer(json.dumps(values.pop("ids")).encode(), np.uint8).copy()
    values["labels"] = np.array([NAMES.index(name) for name in values["labels"]])
    save_file(_tensors(values), path.with_suffix(".safetensors"), {"class_names": json.dumps(NAMES)})
    return path.with_suffix(".safetensors")


def _nested(value: Any, fixed: bool) -> Any:
    """A column of Arrow: lists of one size, or lists that happen to be of one size."""
    if not isinstance(value, np.ndarray):
        return pa.array(value)
    if not fixed:
        return pa.array(value.tolist(), _list_of(value))
    array = pa.array(value.reshape(-1))
    for size in reversed(value.shape[1:]):
        array = pa.FixedSizeListArray.from_arrays(array, size)
    return array


def _list_of(value: NDArray[Any]) -> Any:
    arrow = pa.from_numpy_dtype(value.dtype)
    for _ in value.shape[1:]:
        arrow = pa.list_(arrow)
    return arrow


def parquet(path: Path, arrays: Arrays, fixed: bool = True) -> Path:
    table = pa.table({key: _nested(value, fixed) for key, value in arrays.items()})
    pq.write_table(table, path.with_suffix(".parquet"), row_group_size=7)
    return path.with_suffix(".parquet")


def parquet_lists(path: Path, arrays: Arrays) -> Path:
    return parquet(path, arrays, fixed=False)


def saved(path: Path, arrays: Arrays) -> Path:
    """What `Dataset.save_to_disk` leaves: streams of Arrow, and the list of them."""
    path.mkdir()
    table = pa.table({key: _nested(value, False) for key, value in arrays.items()})
    names = []
    for number, start in enumerate(range(0, table.num_rows, 20)):
        names.append({"filename": f"data-{number:05}-of-00002.arrow"})
        with (
            pa.OSFile(str(path / names[-1]["filename"]), "wb") as file,
            pa.ipc.new_stream(file, table.schema) as out,
        ):
            out.write_table(table.slice(start, 20), max_chunksize=6)
    (path / "state.json").write_text(json.dumps({"_data_files": names}))
    (path / "dataset_info.json").write_text("{}")
    return path


def _zarr(path: Path, arrays: Arrays, version: int) -> Path:
    group = zarr.open_group(path.with_suffix(".zarr"), mode="w", zarr_format=version)  # type: ignore[arg-type]
    for key, value in arrays.items():
        data = np.array(value)
        group.create_array(key, data=data, chunks=(7, *data.shape[1:]))
    return path.with_suffix(".zarr")


def zarr_2(path: Path, arrays: Arrays) -> Path:
    return _zarr(path, arrays, 2)


def zarr_3(path: Path, arrays: Arrays) -> Path:
    return _zarr(path, arrays, 3)


FORMATS: Mapping[str, Callable[[Path, Arrays], Path]] = {
    write.__name__: write
    for write in (
        npz,
        npz_compressed,
        npz_fortran,
        npy_folder,
        hdf5,
        hdf5_big_endian,
        pt,
        pt_of_old_torch,
        safetensors,
        parquet,
        parquet_lists,
        saved,
        zarr_2,
        zarr_3,
    )
}
